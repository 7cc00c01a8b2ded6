"""Which process is meant: a number and the time it started, since numbers are used again."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_DEAD_STATES = ("Z", "X")


@dataclass(frozen=True)
class ProcessId:
    """A process on this machine, written ``PID:START``."""

    pid: int
    start: str
    """When it started, in whatever form the system tells it."""

    def __str__(self) -> str:
        return f"{self.pid}:{self.start}"

    @classmethod
    def parse(cls, text: str) -> ProcessId:
        """Read what ``str`` wrote."""
        pid, _, start = text.partition(":")
        return cls(int(pid), start)

    def is_alive(self) -> bool:
        """Tell whether this very process runs; one that waits to be reaped does not."""
        found = _look(self.pid)
        return found is not None and found.start == self.start and not found.is_dead

    def arguments(self) -> str:
        """Return its command line as text, empty when it has gone."""
        path = Path(f"/proc/{self.pid}/cmdline")
        if _has_proc():
            try:
                return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                return ""
        return _ps(self.pid, "args=")


def find_process(pid: int) -> ProcessId | None:
    """Return the process that has this number now."""
    found = _look(pid)
    return None if found is None else ProcessId(pid, found.start)


def worker_name() -> str:
    """Return a fresh name for this worker process: ``HOST|PID:START|NONCE``."""
    this = find_process(os.getpid())
    assert this is not None, "this process exists"
    return f"{socket.gethostname()}|{this}|{secrets.token_hex(4)}"


def is_known_dead(owner: str) -> bool:
    """Tell whether ``owner`` (a worker's name) ran on this host and has gone."""
    host, _, rest = owner.partition("|")
    process, _, _ = rest.partition("|")
    if host != socket.gethostname() or not process:
        return False
    return not ProcessId.parse(process).is_alive()


@dataclass(frozen=True)
class _Found:
    start: str
    is_dead: bool


def _has_proc() -> bool:
    """Tell whether this system shows processes as files (Linux does, macOS does not)."""
    return Path("/proc/self/stat").exists()


def _look(pid: int) -> _Found | None:
    if _has_proc():
        return _look_in_proc(pid)
    start = _ps(pid, "lstart=")
    return _Found(start, _ps(pid, "stat=")[:1] in _DEAD_STATES) if start else None


def _look_in_proc(pid: int) -> _Found | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold anything.
    fields = text.rpartition(")")[2].split()
    return _Found(start=fields[19], is_dead=fields[0] in _DEAD_STATES)


def _ps(pid: int, column: str) -> str:
    done = subprocess.run(
        ["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
