"""The trainer's only way to speak: numbered records in the attempt's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sintonia.runs.layout import AttemptFolder, step_of
from sintonia.runs.memory import Diary
from sintonia.runs.records import RecordKind, RecordWriter
from sintonia.training.verdict import Verdict


class Reporter:
    """Writes records and keeps the heartbeat of one attempt."""

    def __init__(self, attempt: AttemptFolder, *, is_silent: bool = False) -> None:
        """``is_silent``: write nothing, for another process of the attempt speaks for all."""
        self.attempt = attempt
        self._writer = None if is_silent else RecordWriter(attempt)
        self.diary = Diary(attempt)
        self.beat()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Tell what a step measured."""
        self._write(RecordKind.STEP, metrics)

    def checkpoint(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Tell that an epoch's checkpoint lies whole in ``folder``, and which ones there are."""
        data = {
            "step": step_of(folder),
            "folder": f"{folder.parent.name}/{folder.name}",
            "metrics": dict(metrics),
            "kept": sorted(step_of(path) for path in folder.parent.glob("step-*")),
        }
        self._write(RecordKind.CHECKPOINT, data)
        self.sync()

    def event(self, message: str, level: str = "info") -> None:
        """Tell something in words."""
        self._write(RecordKind.EVENT, {"level": level, "message": message})

    def settled(self, precision: str, micro_batch_tokens: int) -> None:
        """Tell what this machine chose of what was left to it."""
        message = f"Training computes in {precision}, at most {micro_batch_tokens:,} tokens at once"
        values = {"precision": precision, "micro_batch_tokens": micro_batch_tokens}
        data = {"level": "info", "message": message, "settled": values}
        self._write(RecordKind.EVENT, data)

    def verdict(self, verdict: Verdict) -> None:
        """Tell what the curve means, in words and for programs."""
        level = "info" if verdict.kind.is_good else "warn"
        told = {"kind": verdict.kind.value, "step": verdict.step, "message": verdict.message}
        data = {"level": level, "message": verdict.message, "verdict": told}
        self._write(RecordKind.EVENT, data)

    def sync(self) -> None:
        """Make what was said durable; a checkpoint must not outlive the steps before it."""
        if self._writer is not None:
            self._writer.sync()

    def beat(self) -> None:
        """Show that the trainer is alive and moving."""
        if self._writer is not None:
            self.attempt.heartbeat.touch()
            self.diary.note()

    def close(self) -> None:
        """Make everything said so far durable."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, kind: RecordKind, data: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(kind, time.time(), data)


class RowProgress:
    """Beats while rows are worked on, and now and then tells in words how far that is.

    A few hundred megabytes take longer than a worker waits for a sign of life.
    """

    def __init__(
        self, reporter: Reporter, what: str, num_rows: int, *, every_seconds: float = 10.0
    ) -> None:
        self._reporter = reporter
        self._what = what
        self._num_rows = num_rows
        self._every_seconds = every_seconds
        self._last_beat = self._last_word = time.monotonic()
        self._told_rows = 0

    def __call__(self, rows: int) -> None:
        """``rows`` are done; 0 while another trainer does it."""
        now = time.monotonic()
        if now - self._last_beat >= min(1.0, self._every_seconds):
            self._last_beat = now
            self._reporter.beat()
        if rows > self._told_rows and now - self._last_word >= self._every_seconds:
            self._last_word, self._told_rows = now, rows
            self._reporter.event(f"{self._what}: {rows:,} of {self._num_rows:,}")
