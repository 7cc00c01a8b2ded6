"""The loop's only way to speak: numbered records in the attempt's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sintonia.runs.layout import AttemptFolder
from sintonia.runs.records import RecordKind, RecordWriter


class Reporter:
    """Writes records and keeps the heartbeat of one attempt."""

    def __init__(self, attempt: AttemptFolder) -> None:
        self._attempt = attempt
        self._writer = RecordWriter(attempt)
        self.beat()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Tell what a step measured."""
        self._writer.write(RecordKind.STEP, time.time(), metrics)

    def checkpoint(self, step: int, folder: str, metrics: Mapping[str, Any]) -> None:
        """Tell that an epoch's checkpoint lies whole in ``folder`` (relative to the run)."""
        data = {"step": step, "folder": folder, "metrics": dict(metrics)}
        self._writer.write(RecordKind.CHECKPOINT, time.time(), data)
        self._writer.sync()

    def event(self, message: str, level: str = "info") -> None:
        """Tell something in words."""
        self._writer.write(RecordKind.EVENT, time.time(), {"level": level, "message": message})

    def sync(self) -> None:
        """Make what was said durable; a checkpoint must not outlive the steps before it."""
        self._writer.sync()

    def beat(self) -> None:
        """Show that the trainer is alive and moving."""
        self._attempt.heartbeat.touch()

    def close(self) -> None:
        """Make everything said so far durable."""
        self._writer.close()
