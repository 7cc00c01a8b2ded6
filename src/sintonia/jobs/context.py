"""What each part of the worker is given."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from sintonia.bases.library import Library
from sintonia.jobs.executors import Executor
from sintonia.runs.layout import RunFolder
from sintonia.settings import Settings
from sintonia.store import Store


@dataclass(frozen=True)
class Pace:
    """How often the worker looks and how long it waits."""

    poll_seconds: float = 0.5
    """Between two looks at a trainer or at the queue."""
    hang_seconds: float = 900.0
    """A live trainer whose heartbeat file stays as it is for this long hangs."""
    grace_seconds: float = 30.0
    """What a trainer gets to save its work when it is stopped."""
    retry_seconds: float = 2.0
    """Before work that cannot go on now is tried again."""
    full_disk_seconds: float = 15.0
    """Before a job that met a full disk is tried again."""
    sweep_seconds: float = 60.0
    """Between two looks for what crashes left in the file store."""


@dataclass(frozen=True)
class WorkerContext:
    """The worker's surroundings."""

    settings: Settings
    store: Store
    library: Library
    executor: Executor
    stop: threading.Event
    """Set when the worker is to end; trainers live on."""
    pace: Pace = field(default_factory=Pace)

    def run_folder(self, job_id: str) -> RunFolder:
        """Return the run directory of a job."""
        return RunFolder(self.settings.home / "runs" / job_id)

    @property
    def tuned_folder(self) -> Path:
        """Where the folders of tuned models lie."""
        return self.settings.home / "models" / "tuned"
