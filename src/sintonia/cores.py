"""How many cores this process may use."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Return the cores that it is allowed, which only Linux tells, or else the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
