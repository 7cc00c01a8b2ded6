"""Keeps child processes alive: starts them, starts again what dies, ends them together.

Invariant: no child outlives its supervisor. Each is started with a pipe as its standard
input that only the supervisor holds open; when the supervisor dies, however it dies, the
pipe closes and the child ends itself.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_LOG_BYTES = 20_000_000


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep alive."""

    name: str
    command: tuple[str, ...]
    log: Path
    """Where its standard output and error go."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a child that died is started again."""

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    healthy_seconds: float = 60.0
    """A child that lived this long begins at the first delay again."""

    def delay_seconds(self, failures: int) -> float:
        """Return the delay after ``failures`` deaths in a row: doubled each time."""
        return float(min(self.longest_seconds, self.first_seconds * 2 ** (failures - 1)))


class Supervisor:
    """The children of one server. Used from one thread."""

    def __init__(
        self,
        children: Sequence[ChildSpec],
        environment: Mapping[str, str],
        *,
        backoff: Backoff | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._children = [_Child(spec, environment) for spec in children]
        self._backoff = backoff or Backoff()
        self._report = report

    def start(self) -> None:
        """Start every child."""
        for child in self._children:
            child.start()

    def revive(self) -> None:
        """Note which children died, and start those whose delay is over."""
        for child in self._children:
            if child.has_just_died():
                delay = child.schedule(self._backoff)
                self._report(
                    f"{child.spec.name} ended with code {child.exit_code} and is started again "
                    f"in {delay:g} s; see {child.spec.log}"
                )
            child.start_when_due()

    def most_failed(self) -> tuple[ChildSpec, int]:
        """Return the child that died most often in a row, and how often."""
        worst = max(self._children, key=lambda child: child.failures)
        return worst.spec, worst.failures

    def process_ids(self) -> dict[str, int]:
        """Return the process id of each child that lives, by name."""
        return {
            child.spec.name: child.process.pid
            for child in self._children
            if child.process is not None and child.process.poll() is None
        }

    def stop(self, grace_seconds: float = 15.0) -> None:
        """Ask every child to end, wait, and kill those that do not."""
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + grace_seconds
        for child in self._children:
            child.wait_or_kill(deadline)


class _Child:
    """One process and its history."""

    def __init__(self, spec: ChildSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_code: int | None = None
        self._environment = environment
        self.failures = 0
        self._started_at = 0.0
        self._due_at: float | None = None

    def start(self) -> None:
        rotate(self.spec.log)
        with self.spec.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches the supervisor alone.
            self.process = subprocess.Popen(
                self.spec.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,
            )
        self._started_at = time.monotonic()
        self._due_at = None

    def has_just_died(self) -> bool:
        if self.process is None or self.process.poll() is None:
            return False
        self.exit_code = self.process.returncode
        self._close_pipe()
        self.process = None
        return True

    def schedule(self, backoff: Backoff) -> float:
        if time.monotonic() - self._started_at >= backoff.healthy_seconds:
            self.failures = 0
        self.failures += 1
        delay = backoff.delay_seconds(self.failures)
        self._due_at = time.monotonic() + delay
        return delay

    def start_when_due(self) -> None:
        if self._due_at is not None and time.monotonic() >= self._due_at:
            self.start()

    def terminate(self) -> None:
        self._due_at = None
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait_or_kill(self, deadline: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()


def rotate(log: Path) -> None:
    """Keep a log from growing without end: a long one becomes ``NAME.1``."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
