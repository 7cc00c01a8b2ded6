"""Named points of writing at which a test can kill the process.

``reach(name)`` does nothing unless a composition root armed that name. An armed point kills
the process with SIGKILL the N-th time it is reached, once: the marker file remembers that it
has been done, so that the restarted process passes. With ``/TERM`` it asks the process to end,
with ``/FULL`` the disk is full there.

The points: ``claim`` ``heartbeat`` ``launch`` ``step`` ``record.write`` ``checkpoint.open``
``checkpoint.write`` ``checkpoint.fsync`` ``checkpoint.rename`` ``checkpoint.dirsync``
``exit.write`` ``import.commit`` ``settle.model`` ``settle.result`` ``settle.commit``
``file.write`` ``file.rename`` ``file.commit`` ``job.commit``.
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
)


@dataclass
class _Armed:
    name: str = ""
    at: int = 0
    marker: Path = field(default_factory=Path)
    signal: signal.Signals | None = signal.SIGKILL
    """``None`` for a full disk."""
    reached: int = 0


_armed = _Armed()


def arm(setting: str) -> None:
    """Arm from a setting ``NAME@N:MARKER``, where ``/TERM`` or ``/FULL`` may follow the number.

    An empty one disarms.
    """
    _armed.name = ""
    if setting:
        point, marker = setting.split(":", 1)
        point, _, ending = point.partition("/")
        _armed.signal = None if ending == "FULL" else signal.Signals[f"SIG{ending or 'KILL'}"]
        name, _, at = point.partition("@")
        if name not in NAMES:
            raise ValueError(f"failpoint {name!r} does not exist")
        _armed.name, _armed.at, _armed.marker, _armed.reached = name, int(at or 1), Path(marker), 0


def reach(name: str) -> None:
    """Do what was armed, if it is this point that was, it is due and has not been done before.

    Raises ``OSError`` where the disk is to be full.
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
    if _armed.signal is None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), _armed.signal)
