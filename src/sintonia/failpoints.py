"""Named points of writing at which a test can kill the process.

``reach(name)`` does nothing unless a composition root armed that name. An armed point kills
the process with SIGKILL the N-th time it is reached, once: the marker file remembers that it
has been done, so that the restarted process passes. With ``/TERM`` it asks the process to end,
with ``/FULL`` the disk is full there, with ``/MEMORY`` an allocation fails.

The points: ``claim`` ``heartbeat`` ``launch`` ``step`` ``record.write`` ``checkpoint.open``
``checkpoint.write`` ``checkpoint.fsync`` ``checkpoint.rename`` ``checkpoint.dirsync``
``exit.write`` ``import.commit`` ``settle.model`` ``settle.result`` ``settle.commit``
``file.write`` ``file.rename`` ``file.commit`` ``job.commit`` ``batch.create`` ``batch.admit``
``batch.write`` ``batch.sync`` ``batch.finalize`` ``batch.stage`` ``batch.commit`` ``batch.clear``
``migrate.note`` ``migrate.file`` ``migrate.job``
``upload.create`` ``upload.part`` ``upload.complete`` ``upload.clear``.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

NAMES = (
    "claim",
    "heartbeat",
    "launch",
    "step",
    "record.write",
    "checkpoint.open",
    "checkpoint.write",
    "checkpoint.fsync",
    "checkpoint.rename",
    "checkpoint.dirsync",
    "exit.write",
    "import.commit",
    "settle.model",
    "settle.result",
    "settle.commit",
    "file.write",
    "file.rename",
    "file.commit",
    "job.commit",
    "batch.create",
    "batch.admit",
    "batch.write",
    "batch.sync",
    "batch.finalize",
    "batch.stage",
    "batch.commit",
    "batch.clear",
    "migrate.note",
    "migrate.file",
    "migrate.job",
    "upload.create",
    "upload.part",
    "upload.complete",
    "upload.clear",
)


_ERRORS = {"FULL": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "MEMORY": MemoryError()}


@dataclass
class _Armed:
    name: str = ""
    at: int = 0
    marker: Path = field(default_factory=Path)
    does: signal.Signals | Exception = signal.SIGKILL
    """A signal to this process, or an error to raise."""
    reached: int = 0


_armed = _Armed()


def arm(setting: str) -> None:
    """Arm from a setting ``NAME@N:MARKER``; ``/TERM``, ``/FULL`` or ``/MEMORY`` may follow ``N``.

    An empty one disarms.
    """
    _armed.name = ""
    if setting:
        point, marker = setting.split(":", 1)
        point, _, ending = point.partition("/")
        _armed.does = _ERRORS.get(ending) or signal.Signals[f"SIG{ending or 'KILL'}"]
        name, _, at = point.partition("@")
        if name not in NAMES:
            raise ValueError(f"failpoint {name!r} does not exist")
        _armed.name, _armed.at, _armed.marker, _armed.reached = name, int(at or 1), Path(marker), 0


def reach(name: str) -> None:
    """Do what was armed, if it is this point that was, it is due and has not been done before.

    Raises ``OSError`` where the disk is to be full and ``MemoryError`` where memory is.
    """
    if _armed.name != name:
        return
    _armed.reached += 1
    if _armed.reached < _armed.at:
        return
    try:
        os.close(os.open(_armed.marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if isinstance(_armed.does, Exception):
        raise _armed.does
    os.kill(os.getpid(), _armed.does)
