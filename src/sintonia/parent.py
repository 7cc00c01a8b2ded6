"""Ending with the process that started this one.

A parent holds the other end of this process's standard input and never writes to it; when the
parent dies, however it dies, the pipe closes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def when_it_ends(stop: Callable[[], object]) -> None:
    """Call ``stop``, in a thread of its own, when standard input closes."""

    def watch() -> None:
        # Not through sys.stdin: a thread that waits inside its buffer breaks the
        # interpreter's exit.
        while os.read(0, 4096):
            pass
        stop()

    threading.Thread(target=watch, name="parent", daemon=True).start()
