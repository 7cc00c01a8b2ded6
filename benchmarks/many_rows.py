"""A million rows: from a job's creation to its first step, and the memory that it takes.

``python benchmarks/many_rows.py [--rows 1000000] [--json OUT]``

The rows are short chats with one system prompt, about 200 bytes each, from a seed. The yardstick is
reading and tokenizing them once: the project's own reader, renderer and tokenizer in one process,
and a plain loop of ``json.loads``, ``str.format`` and ``encode_batch``, which uses every core. The
model is tiny and random but has the embedded model's tokenizer, so that its own time does not
count. Peaks are resident memory of the largest process of its kind; a tenth of the rows shows
what grows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.domain.files import FilePurpose
from sintonia.domain.jobs import JobDraft, JobStatus
from sintonia.domain.methods import Hyperparameters, Method
from sintonia.jobs.executors.local import PATIENT_THREADS
from sintonia.store import Store

SYSTEM = "Classify the user's request into one intent."
WORDS = [
    *("card", "balance", "transfer", "cancel", "flight", "book", "my", "please", "how", "much"),
    *("do", "i", "need", "to", "pay", "for", "when", "is", "next", "bill", "due", "what", "rate"),
    *("weather", "tomorrow", "set", "timer", "alarm", "order", "pizza", "from", "nearest", "place"),
    *("insurance", "oil", "change", "phone", "number", "translate", "hello", "into", "spanish"),
]
LABELS = [f"{verb}_{noun}" for verb in ("get", "set", "cancel") for noun in WORDS[:12]]
CHATML = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
POLL_SECONDS = 0.05
SAME = Hyperparameters(n_epochs=1, batch_size=8)
"""However many rows there are: a larger batch takes more memory, whatever the file."""
HELD_SECONDS = 2.0


@dataclass
class Measured:
    """What one way took until its first step."""

    seconds: float
    cpu_seconds: float = 0.0
    """Of all its processes: what other programs on the machine do not change much."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """By kind of process."""


def write_rows(path: Path, number: int) -> None:
    """Write ``number`` chats."""
    drawn = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(number):
            asked = " ".join(drawn.choices(WORDS, k=drawn.randint(4, 14)))
            turns = [("system", SYSTEM), ("user", asked), ("assistant", drawn.choice(LABELS))]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def add_tiny_base(home: Path, tokenizer_folder: Path) -> Path:
    """Add a random model of two layers with a real tokenizer; return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder = home / "incoming"
    config = AutoConfig.from_pretrained(tokenizer_folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config.update({**sizes, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16})
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer_folder / name, folder / name)
    base = Library(home, catalog.load()).add("tiny", folder)
    shutil.rmtree(folder)
    return Path(base.ref.folder)


def read_once(path: str, base: str) -> None:
    """Read, check, render and tokenize each row once, as the project does."""
    from sintonia.data.renderer import Renderer
    from sintonia.data.validate import iter_examples

    renderer = Renderer.from_folder(Path(base))
    print(sum(len(renderer.sequences(example)) for _, example in iter_examples(path)))


def read_plainly(path: str, base: str) -> None:
    """Read and tokenize each row once, unchecked, with nothing of the project's."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{base}/tokenizer.json")
    total, texts = 0, []
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            system, user, answer = (m["content"] for m in json.loads(line)["messages"])
            texts += [CHATML.format(system, user), answer]
            if len(texts) >= 2048:
                total += sum(len(e.ids) for e in tokenizer.encode_batch(texts))
                texts = []
    print(total + sum(len(e.ids) for e in tokenizer.encode_batch(texts)))


def tune_by_library(path: str, folder: str) -> None:
    """Check, plan and train, as a script would."""
    import sintonia

    report = sintonia.validate(path, base="tiny")
    sintonia.train(sintonia.plan(report, base="tiny", hyperparameters=SAME), folder)


STEPS: dict[str, Callable[[str, str], None]] = {
    "read_once": read_once,
    "read_plainly": read_plainly,
    "tune_by_library": tune_by_library,
}
"""What runs as a process of its own."""


@contextmanager
def process(home: Path, *command: str) -> Iterator[psutil.Process]:
    """Run Python with ``command`` in ``home``; whatever it started ends with it."""
    environment = {**PATIENT_THREADS, **os.environ, "SINTONIA_HOME": str(home)}
    child = subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    found = psutil.Process(child.pid)
    try:
        yield found
    finally:
        for one in [*family(found), found]:
            with suppress(psutil.Error):
                one.send_signal(signal.SIGKILL)
        child.wait()


def family(parent: psutil.Process) -> list[psutil.Process]:
    """Return the processes below ``parent``."""
    with suppress(psutil.Error):
        return parent.children(recursive=True)
    return []


class Peaks:
    """The largest resident memory of each kind of process, and their time on a core."""

    KINDS: ClassVar = {"sintonia.data.crew": "crew", "sintonia.training.run": "trainer"}

    def __init__(self, parent: psutil.Process, name: str) -> None:
        self.bytes: dict[str, int] = {}
        self._cpu_seconds: dict[int, float] = {}
        self._parent, self._name = parent, name

    def look(self) -> None:
        """Look at every process once."""
        for one in [self._parent, *family(self._parent)]:
            with suppress(psutil.Error, OSError, StopIteration):
                command = " ".join(one.cmdline())
                kind = next((k for part, k in self.KINDS.items() if part in command), self._name)
                lines = Path(f"/proc/{one.pid}/status").read_text().splitlines()
                peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
                self.bytes[kind] = max(self.bytes.get(kind, 0), peak * 1024)
                times = one.cpu_times()
                self._cpu_seconds[one.pid] = times.user + times.system

    @property
    def cpu_seconds(self) -> float:
        """What all of them have computed together."""
        return sum(self._cpu_seconds.values())


def follow(parent: psutil.Process, name: str, is_done: Callable[[], bool]) -> Measured:
    """Wait until ``is_done``, looking at the memory of ``parent`` and all below it."""
    peaks = Peaks(parent, name)
    peaks.look()
    used, seconds, before = peaks.cpu_seconds, 0.0, time.perf_counter()
    while not is_done():
        peaks.look()
        time.sleep(POLL_SECONDS)
        now = time.perf_counter()
        # Longer than that, and this very process was held: the others were too.
        seconds += now - before if now - before < HELD_SECONDS else POLL_SECONDS
        before = now
    return Measured(seconds, peaks.cpu_seconds - used, peaks.bytes)


def run_alone(name: str, home: Path, *arguments: Path) -> Measured:
    """Measure one of ``STEPS`` from its process's start to its end."""
    with process(home, __file__, "--step", name, *map(str, arguments)) as one:
        return follow(one, name, lambda: one.status() == psutil.STATUS_ZOMBIE)


def has_stepped(run: Path) -> bool:
    """Tell whether a run has done a step."""
    return any(b'"kind": "step"' in p.read_bytes() for p in run.glob("attempt-*/records.jsonl"))


def by_library(home: Path, rows: Path, run: Path) -> Measured:
    """Measure from a script's start to its first step."""
    with process(home, __file__, "--step", "tune_by_library", str(rows), str(run)) as one:
        return follow(one, "script", lambda: has_stepped(run) or not one.is_running())


def by_job(home: Path, file_id: str) -> Measured:
    """Measure from a job's creation to its first step: the worker checks, the trainer trains."""
    store = Store.open(settings.load({}, home=str(home)))
    with process(home, "-m", "sintonia.jobs.worker") as worker:
        time.sleep(5)  # it is up and waits
        draft = JobDraft("tiny", "tiny", file_id, method=Method(hyperparameters=SAME), seed=1)
        job = store.jobs.create(draft)
        run = home / "runs" / job.id

        def is_done() -> bool:
            assert store.jobs.get(job.id).status is not JobStatus.FAILED, store.jobs.get(job.id)
            return has_stepped(run)

        found = follow(worker, "worker", is_done)
    store.jobs.cancel(job.id)
    store.close()
    return found


def measure(work: Path, tokenizer_folder: Path, number: int) -> dict[str, Measured]:
    """Measure every way over ``number`` rows, in a home of their own."""
    home, rows = work / "home", work / "rows.jsonl"
    work.mkdir()
    write_rows(rows, number)
    base = add_tiny_base(home, tokenizer_folder)
    cache = home / "cache" / "samples"
    found = {name: run_alone(name, home, rows, base) for name in ("read_plainly", "read_once")}
    store = Store.open(settings.load({}, home=str(home)))
    with rows.open("rb") as content:
        file_id = store.files.create(
            filename="rows.jsonl", purpose=FilePurpose.FINE_TUNE, content=content
        ).id
    store.close()
    found["job_cold"] = by_job(home, file_id)
    found["job_warm"] = by_job(home, file_id)
    shutil.rmtree(cache)
    found["library_cold"] = by_library(home, rows, work / "cold")
    found["library_warm"] = by_library(home, rows, work / "warm")
    shutil.rmtree(work)
    return found


def told(number: int, found: dict[str, Measured]) -> None:
    """Print one table."""
    once = found["read_once"].seconds
    print(f"\n{number:,} rows")
    for name, one in found.items():
        peaks = ", ".join(f"{kind} {size / 1e6:.0f} MB" for kind, size in one.peak_bytes.items())
        ratio = one.seconds / once
        times = f"{one.seconds:8.1f} s {ratio:6.2f} x, {one.cpu_seconds:6.1f} s of cores"
        print(f"  {name:14}{times}; peak {peaks}")


def main() -> None:
    """Parse, measure a tenth of the rows and all of them, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        STEPS[given.step[0]](*given.step[1:])
        return
    chosen = settings.load()
    library = Library(chosen.home, catalog.load(chosen.aliases))
    tokenizer_folder = Path(library.fetch("smollm2-135m-instruct", lambda *_: None).ref.folder)
    results: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in (given.rows // 10, given.rows):
            found = measure(Path(folder) / str(number), tokenizer_folder, number)
            results[number] = {name: asdict(one) for name, one in found.items()}
            told(number, found)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
