"""What both sides of the training benchmark are given, and how they are driven.

A side is a process. It reads its work from a file, says when it waits, makes one optimizer step
for each line on its standard input and answers each with its loss and how much memory it has
needed at most. It ends when its standard input does.
"""

from __future__ import annotations

import json
import resource
import sys
import time
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

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence."""
        return len(self.prompt) + max(map(len, self.answers))


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
    max_length: int
    """No row is longer."""
    device: str = "cpu"
    shares_prefixes: bool = True
    compiles: bool = False
    variant: str = "plain"
    """Of the peer: how it is set."""

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


def say_step(loss: float, tokens: int, extra_seconds: float) -> None:
    """Tell what a step came to, and the largest resident size of this process so far.

    ``extra_seconds`` were spent on the step's rows before the first step.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    say(loss=loss, tokens=tokens, extra_seconds=extra_seconds, peak_bytes=peak)


def say_waiting() -> None:
    """Tell that nothing is computed until the parent asks."""
    say(is_waiting=True)


def requests(batches: Sequence[Any]) -> Iterator[int]:
    """Yield the number of each step as the parent asks for it; end early when it has gone.

    The parent is told what the wait cost: threads that spin on would slow the other side down.
    """
    for number in range(len(batches)):
        say_waiting()
        began, cpu = time.perf_counter(), time.process_time()
        if not sys.stdin.readline():
            return
        waited = time.perf_counter() - began
        say(waited_seconds=waited, waiting_cpu_seconds=time.process_time() - cpu)
        yield number
    say_waiting()
