"""What both sides of the training benchmark are given, and how they are driven.

A side is a process. It reads its work from a file, says when it is ready, makes one optimizer
step for each line on its standard input and answers each with its loss. At the end it says how
much memory it needed at most.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_NORM = 1.0
RATE = 1e-4
BETA = 0.1


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and of what is learned after it: one answer, or two to compare."""

    prompt: list[int]
    answers: list[list[int]]


@dataclass(frozen=True)
class Work:
    """One run, the same for both sides."""

    method: str
    """``sft`` or ``dpo``."""
    base: str
    start: str
    """Folder of the adapter that both begin with."""
    batches: list[list[Row]]
    threads: int
    device: str = "cpu"
    shares_prefixes: bool = True
    compiles: bool = False
    settings: str = "sdpa"
    """Of the peer: which attention it uses."""

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> Work:
        """Read what :meth:`write` wrote."""
        content = json.loads(Path(path).read_text())
        batches = [[Row(**row) for row in batch] for batch in content.pop("batches")]
        return cls(batches=batches, **content)


def say(**told: Any) -> None:
    """Answer the parent."""
    sys.__stdout__.write(json.dumps(told) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def requests(batches: Sequence[Any]) -> Iterator[int]:
    """Yield the number of each step as the parent asks for it."""
    for number in range(len(batches)):
        sys.stdin.readline()
        yield number


def say_memory() -> None:
    """Tell the largest resident size of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    say(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
