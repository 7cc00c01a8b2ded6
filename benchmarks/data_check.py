"""Checking a data file, whole and with broken rows, against a plain loop of ``json.loads``.

``python benchmarks/data_check.py [--megabytes 100] [--json OUT]``

Rows are chats of about 1 kB from a seed; in the broken file one row in twelve is spoiled, in each
of several ways in turn. ``sintonia data check`` runs as a process of its own in a home without a
base model, so no tokens are counted. Runs alternate; figures are medians, in MB for each second of
processor time, start-up included, and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

RUNS = 5
EVERY = 12
LOOP = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
"""The yardstick; it would stop at a broken row, so it reads the whole file."""

SPOILERS: tuple[Callable[[str], str], ...] = (
    lambda line: line[: len(line) // 2],
    lambda line: line.replace('"role": "user"', '"role": "nobody"'),
    lambda line: line.replace('"messages"', '"message"'),
    lambda line: line.replace('"content": ', '"content": 1, "content": ', 1),
    lambda line: line.replace('"assistant", "content": ', '"assistant", "text": '),
    lambda line: f"[{line}]",
    lambda line: line.replace("}", "}}", 1),
)


def rows(random_: random.Random) -> Iterator[str]:
    """Yield rows without end."""
    words = ["".join(random_.choices("abcdefghij", k=random_.randint(2, 9))) for _ in range(2000)]
    while True:
        texts = [" ".join(random_.choices(words, k=70)) for _ in range(2)]
        roles = zip(("user", "assistant"), texts, strict=True)
        yield json.dumps({"messages": [{"role": role, "content": text} for role, text in roles]})


def write(path: Path, size_bytes: int, *, is_broken: bool) -> None:
    """Write a file of about that size."""
    with path.open("w") as file:
        for number, line in enumerate(rows(random.Random(0))):
            spoils = is_broken and number % EVERY == 0
            spoiler = SPOILERS[number // EVERY % len(SPOILERS)]
            file.write((spoiler(line) if spoils else line) + "\n")
            if file.tell() > size_bytes:
                return


def measured(command: list[str], home: str) -> tuple[float, int]:
    """Return a process's processor seconds and its peak in bytes."""
    environment = {**os.environ, "SINTONIA_HOME": home}
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=null, stderr=null)
    _, _, used = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, used.ru_maxrss * unit


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole.jsonl"), Path(folder, "broken.jsonl")
        write(whole, arguments.megabytes * 10**6, is_broken=False)
        write(broken, arguments.megabytes * 10**6, is_broken=True)
        check = [sys.executable, "-m", "sintonia.cli", "data", "check"]
        commands = {
            "loop": [sys.executable, "-c", LOOP, str(whole)],
            "whole": [*check, str(whole)],
            "broken": [*check, str(broken)],
        }
        runs = [
            {name: measured(one, f"{folder}/home") for name, one in commands.items()}
            for _ in range(RUNS)
        ]
    found = {
        name: {
            "megabytes_a_second": arguments.megabytes / statistics.median(r[name][0] for r in runs),
            "peak_bytes": max(run[name][1] for run in runs),
            "ratio_to_loop": statistics.median(run[name][0] / run["loop"][0] for run in runs),
        }
        for name in commands
    }
    for name, figures in found.items():
        print(
            f"{name}: {figures['megabytes_a_second']:.0f} MB a second of processor time, "
            f"{figures['peak_bytes'] / 1e6:.0f} MB of memory, "
            f"{figures['ratio_to_loop']:.1f} x the time of a plain loop"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
