"""The memory of this machine as a trainer meets it: limits, use, and signs that it ran out.

Linux tells all of it; elsewhere what is not known is ``None`` or the best that the system says.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sintonia.errors import TrainerFailed
from sintonia.runs.layout import AttemptFolder
from sintonia.runs.records import OUT_OF_MEMORY, read_exit
from sintonia.sealed import read_json, write_json

NEAR_LIMIT = 0.95
"""A process that used this part of the memory and vanished ran out of it."""
NOTE_SECONDS = 1.0
NOTE_GROWTH = 1.02
_KIND_TO_OTHERS = "1000"
_PROC = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def limit_bytes() -> int:
    """Return how much memory this process may use: the machine's, or less in a container."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *(limit for limit in _cgroup_limits() if limit < _UNLIMITED)])


def free_bytes() -> int | None:
    """Return how much memory is free on the whole machine at the moment."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable:")


def used_bytes() -> int:
    """Return how much memory this process uses."""
    return _kilobytes(_PROC / "status", "VmRSS:") or peak_bytes()


def peak_bytes() -> int:
    """Return the most memory that this process used since :func:`forget_peak`, or ever."""
    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return _kilobytes(_PROC / "status", "VmHWM:") or usage


def forget_peak() -> None:
    """Let the peak begin at what is used now, where the system can do that."""
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")


def offer_to_kernel() -> None:
    """Let the kernel end this process before any other when memory runs out.

    A trainer goes on from its last snapshot; a server that answers or somebody's work would not.
    """
    with contextlib.suppress(OSError):
        (_PROC / "oom_score_adj").write_text(_KIND_TO_OTHERS)


def num_kills() -> int | None:
    """Return how many processes the kernel has ended for want of memory, as far as it says."""
    for folder in _cgroup_folders():
        for name in ("memory.events", "memory.oom_control"):
            count = _count(folder / name, "oom_kill")
            if count is not None:
                return count
    return _count(Path("/proc/vmstat"), "oom_kill")


@dataclass
class Diary:
    """What an attempt notes of its memory while it lives, for the attempt after it."""

    attempt: AttemptFolder
    peak: int = 0
    noted_at: float = 0.0
    kills: int | None = None
    num_processes: int = 1

    def begin(self, num_processes: int = 1) -> None:
        """Note how things stand at the start; so many processes like this one share the memory."""
        self.kills = num_kills()
        self.num_processes = num_processes
        self._write(peak_bytes())

    def note(self) -> None:
        """Note the peak when it grew, now and then; nothing before :meth:`begin`."""
        if not self.peak:
            return
        now = time.monotonic()
        if now - self.noted_at < NOTE_SECONDS:
            return
        peak = peak_bytes()
        self.noted_at = now
        if peak > self.peak * NOTE_GROWTH:
            self._write(peak)

    def _write(self, peak: int) -> None:
        self.peak = peak
        limit = limit_bytes() // self.num_processes
        told = {"num_kills": self.kills, "peak_bytes": peak, "limit_bytes": limit}
        write_json(_diary(self.attempt), told)


def ran_out(attempt: AttemptFolder) -> bool:
    """Tell whether an attempt ended for want of memory.

    It said so, or it vanished and all signs are that the kernel ended it.
    """
    ended = read_exit(attempt)
    if ended is not None:
        return ended.code == OUT_OF_MEMORY
    if not _diary(attempt).exists():
        return False
    told = read_json(_diary(attempt))
    kills = num_kills()
    was_killed = None not in (kills, told["num_kills"]) and kills > told["num_kills"]
    return bool(was_killed or told["peak_bytes"] >= NEAR_LIMIT * told["limit_bytes"])


def is_out_of_memory(problem: Exception) -> bool:
    """Tell an allocation that failed; torch has several ways to say it."""
    told = str(problem)
    return (
        isinstance(problem, MemoryError)
        or type(problem).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in told
        or "not enough memory" in told
        or "CUBLAS_STATUS_ALLOC_FAILED" in told
    )


def out_of_memory() -> TrainerFailed:
    """Return the error of a trainer that could not allocate."""
    return TrainerFailed("The trainer ran out of memory.", code=OUT_OF_MEMORY)


def _diary(attempt: AttemptFolder) -> Path:
    return attempt.path / "memory.json"


def _cgroup_folders() -> Iterator[Path]:
    """Yield this process's control groups that may limit memory, from the innermost up."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            root = _CGROUPS / controllers
            folder = root / path.lstrip("/")
            # A container may see its own group as the root, under the path that it has outside.
            yield from (f for f in (folder, *folder.parents) if f.is_relative_to(root))


def _cgroup_limits() -> Iterator[int]:
    for folder in _cgroup_folders():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError):
                text = (folder / name).read_text().strip()
                if text.isdecimal():
                    yield int(text)


def _count(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None


def _kilobytes(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None
