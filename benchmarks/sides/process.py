"""The sides as processes that take turns.

Invariant: while one side makes a step, every other one waits for its turn and computes nothing.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sides.work import Work

SCRIPTS = {"ours": "ours.py", "ours_unshared": "ours.py", "trl": "trl_peft.py"}
CLOSE_SECONDS = 60
_KIND_TO_OTHERS = "1000"


@dataclass(frozen=True)
class Answer:
    """What one side told of one step."""

    loss: float
    seconds: float
    tokens: int
    peak_bytes: int
    """Largest resident size up to here."""
    waited_seconds: float
    waiting_cpu_seconds: float
    """Processor time spent while it waited for its turn."""


class SideEnded(Exception):
    """A side's process ended before it answered."""


class Side:
    """One side's process."""

    def __init__(self, name: str, work: Work, folder: Path) -> None:
        """Start it and wait until it has loaded everything. Raises ``SideEnded``."""
        self._name = name
        self._log = folder / f"{name}.log"
        work.write(folder / f"{name}.json")
        script = Path(__file__).parent / SCRIPTS[name]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(folder / f"{name}.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        with suppress(OSError):  # where memory ends, a side goes before anything else does
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text(_KIND_TO_OTHERS)
        self._until("is_waiting")

    def step(self, limit_seconds: float) -> Answer:
        """Let it make a step. Raises ``SideEnded``, also when the step takes too long."""
        killer = threading.Timer(limit_seconds, self._process.kill) if limit_seconds else None
        if killer:
            killer.start()
        began = time.perf_counter()
        try:
            self._process.stdin.write("\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            told = self._until("loss")
        except SideEnded:
            if limit_seconds and time.perf_counter() - began >= limit_seconds:
                raise SideEnded(f"{self._name}: a step took over {limit_seconds:.0f} s") from None
            raise
        finally:
            if killer:
                killer.cancel()
        seconds = time.perf_counter() - began + told.pop("extra_seconds")
        self._until("is_waiting")
        return Answer(seconds=seconds, **told)

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _until(self, key: str) -> dict[str, Any]:
        """Return all that it tells up to the line that has ``key``."""
        told: dict[str, Any] = {}
        for line in self._process.stdout:  # type: ignore[union-attr]
            told |= json.loads(line)
            if key in told:
                return told
        code = self._process.wait()
        if code == -signal.SIGKILL:
            raise SideEnded(f"{self._name}: killed, as the kernel does where memory ends")
        words = self._log.read_text().strip().splitlines() or ["no words"]
        raise SideEnded(f"{self._name}: ended with {code}: {words[-1]}")


@contextmanager
def started(works: Mapping[str, Work], folder: Path) -> Iterator[dict[str, Side]]:
    """Start sides one after the other; end them all at the end."""
    with ExitStack() as stack:
        sides = {}
        for name, work in works.items():
            sides[name] = Side(name, work, folder)
            stack.callback(sides[name].close)
        yield sides


def take_turns(
    sides: Mapping[str, Side], limit_seconds: float = 0.0
) -> Iterator[dict[str, Answer]]:
    """Yield what each side tells of each step, made back to back; who begins changes.

    A step of ``trl`` may take ``limit_seconds``; 0: as long as it takes. Raises ``SideEnded``.
    """
    names = list(sides)
    while True:
        answers = {}
        for name in names:
            answers[name] = sides[name].step(limit_seconds if name == "trl" else 0.0)
        yield answers
        names = [*names[1:], names[0]]
