"""Room on the disk of a run: what the operator wants left alone, and whether it is full.

Invariant: a run that lacks room ends as ``InsufficientStorage``, which lets its job wait.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from sintonia.errors import InsufficientStorage
from sintonia.runs.records import DISK_FULL, MAKE_ROOM
from sintonia.sealed import FULL_DISK


@dataclass(frozen=True)
class Room:
    """The disk under ``folder``."""

    folder: Path
    min_free_bytes: int
    """What has to stay free, whatever is written."""

    def require(self, size_bytes: int = 0) -> None:
        """Raise ``InsufficientStorage`` unless ``size_bytes`` more can be written."""
        free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes - size_bytes < self.min_free_bytes:
            raise InsufficientStorage(
                f"The disk is nearly full: {free_bytes:,} bytes are free, and "
                f"{self.min_free_bytes + size_bytes:,} are needed, of which "
                f"{self.min_free_bytes:,} are left alone (setting min_free_bytes). {MAKE_ROOM}"
            )


def is_disk_full(problem: Exception) -> bool:
    """Tell a full disk, which safetensors reports as an error of its own kind."""
    if isinstance(problem, OSError):
        return problem.errno in FULL_DISK
    told = str(problem)
    return isinstance(problem, SafetensorError) and any(f"os error {n})" in told for n in FULL_DISK)


def disk_full() -> InsufficientStorage:
    """Return the error for a disk that turned out to be full."""
    return InsufficientStorage(DISK_FULL)
