"""What both sides of the training benchmark are given, and how they are driven.

A side is a process. It reads its work from a file, says when it waits, makes one optimizer step
for each line on its standard input and answers each with its loss and how much memory it has
needed at most. It ends when its standard input does.
"""

from __future__ import annotations

import json
import math
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
    is_quantized: bool = False
    """Whether our side keeps the base in four bits; the peer keeps it whole."""
    variant: str = "plain"
    """Of the peer: how it is set."""

    @property
    def largest_difference(self) -> float:
        """How far the losses of a step may lie apart, relative to them.

        On a GPU both sides round to bfloat16, each in its own order; four bits are another base.
        """
        if self.is_quantized:
            return math.inf
        return 1e-3 if self.device == "cpu" else 2e-2

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


def say_step(loss: float, tokens: int, extra_seconds: float, device: str = "cpu") -> None:
    """Tell what a step came to, once all of it is done, and the most memory needed so far.

    ``extra_seconds`` were spent on the step's rows before the first step.
    """
    peak = peak_bytes(device)
    say(loss=loss, tokens=tokens, extra_seconds=extra_seconds, peak_bytes=peak)


def peak_bytes(device: str) -> int:
    """Return the largest resident size of this process; of a GPU what torch held there at most.

    Waits for what the GPU still has to do.
    """
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
