"""Follows one attempt: its records into the store, its end to whoever asked.

Invariant: everything that an attempt said is in the store before its end is reported.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from sintonia.domain.jobs import EventLevel, JobStatus
from sintonia.jobs.context import WorkerContext
from sintonia.jobs.settle import checkpoint_model, remove_unlisted
from sintonia.runs.layout import AttemptFolder
from sintonia.runs.records import ExitRecord, Record, RecordKind, Tail, read_exit
from sintonia.store import Claim
from sintonia.store.claims import (
    CheckpointImport,
    EventImport,
    ImportBatch,
    Imported,
    StepImport,
)

RATE_STEPS = 50
"""The time left is told from the pace of so many steps."""


class Ending(StrEnum):
    """How following an attempt ended."""

    EXITED = "exited"
    """It said how it ended."""
    DIED = "died"
    """The process is gone and said nothing."""
    HUNG = "hung"
    """It lived but did nothing for very long; it was stopped."""
    LEFT = "left"
    """This worker is to end; the trainer lives on."""


@dataclass(frozen=True)
class Followed:
    """What came of following an attempt."""

    ending: Ending
    claim: Claim
    exit: ExitRecord | None = None


class Watch:
    """One attempt, watched from where the store says it was last read."""

    def __init__(self, context: WorkerContext, claim: Claim, keep_checkpoints: int) -> None:
        assert claim.job.handle is not None, "an attempt that runs has a handle"
        self.job_id = claim.job.id
        self.handle = claim.job.handle
        self._context = context
        self._claim = claim
        self._keep_checkpoints = keep_checkpoints
        self._attempt = context.run_folder(claim.job.id).attempt(claim.attempt)
        self._tail = Tail(self._attempt.records, claim.import_offset)
        self._pulse = Pulse(self._attempt, context.pace.hang_seconds)
        self._rate = Rate()
        self._was_asked = False

    def follow(self) -> Followed:
        """Return once the attempt has ended or the worker is to end. Raises ``ClaimLost``."""
        while True:
            followed = self._look()
            if followed is not None:
                return followed
            self._context.stop.wait(self._context.pace.poll_seconds)

    def _look(self) -> Followed | None:
        # Asked in this order, nothing is missed: a dead process adds no exit record, and an
        # exit record comes after the last record.
        is_alive = self._context.executor.is_alive(self.handle)
        exit_record = read_exit(self._attempt)
        self._import()
        if exit_record is not None:
            self._stop_trainer()
            return Followed(Ending.EXITED, self._claim, exit_record)
        if not is_alive:
            return Followed(Ending.DIED, self._claim)
        self._claim = self._context.store.queue.refresh(self._claim)
        if self._claim.job.status is JobStatus.PAUSING:
            self._ask_to_pause()
        if self._pulse.has_stopped():
            self._context.executor.stop(self.handle, 0)
            self._import()
            return Followed(Ending.HUNG, self._claim)
        return Followed(Ending.LEFT, self._claim) if self._context.stop.is_set() else None

    def _import(self) -> None:
        records, tail = self._tail.read()
        if not records:
            return
        batch = ImportBatch(
            records=tuple(self._with_model(_imported(record)) for record in records),
            end_offset=tail.offset,
            keep_checkpoints=self._keep_checkpoints,
            estimated_finish=self._rate.finish_after(records),
        )
        self._claim = self._context.store.queue.import_records(self._claim, batch)
        self._tail = tail
        if any(record.kind is RecordKind.CHECKPOINT for record in records):
            remove_unlisted(self._context, self.job_id)

    def _with_model(self, record: Imported) -> Imported:
        """Make a checkpoint's folder before the store announces it."""
        if not isinstance(record, CheckpointImport):
            return record
        return replace(record, model=checkpoint_model(self._context, self._claim, record.step))

    def _ask_to_pause(self) -> None:
        """Ask the trainer once to end after the step it is in, however long that takes.

        While it beats it is not killed; the step would be lost.
        """
        if not self._was_asked:
            self._was_asked = True
            self._context.executor.ask_to_stop(self.handle)

    def _stop_trainer(self) -> None:
        """A trainer that wrote its exit record has nothing more to do."""
        self._context.executor.stop(self.handle, self._context.pace.grace_seconds)


class Pulse:
    """Tells whether a heartbeat file still changes.

    The clock is this process's own, which stands still while the machine sleeps.
    """

    def __init__(self, attempt: AttemptFolder, limit_seconds: float) -> None:
        self._path = attempt.heartbeat
        self._limit_seconds = limit_seconds
        self._last: float | None = None
        self._since = time.monotonic()

    def has_stopped(self) -> bool:
        """Look once more; ``True`` when nothing has changed for longer than the limit."""
        now = self._path.stat().st_mtime if self._path.exists() else None
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        return time.monotonic() - self._since > self._limit_seconds


class Rate:
    """The pace of the newest steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=RATE_STEPS)

    def finish_after(self, records: Iterable[Record]) -> int | None:
        """Take new records in; return in Unix seconds when the last step will be done."""
        total_steps = 0
        for record in records:
            if record.kind is RecordKind.STEP:
                self._steps.append((record.data["step"], record.time))
                total_steps = record.data["total_steps"]
        if total_steps == 0 or len(self._steps) < 2:
            return None
        (first, began), (last, ended) = self._steps[0], self._steps[-1]
        step_seconds = (ended - began) / max(1, last - first)
        return int(ended + step_seconds * (total_steps - last))


def _imported(record: Record) -> Imported:
    data = record.data
    match record.kind:
        case RecordKind.STEP:
            return StepImport(data["step"], record.time, data)
        case RecordKind.CHECKPOINT:
            kept = tuple(data.get("kept", ()))
            return CheckpointImport(data["step"], record.time, data["metrics"], kept=kept)
        case RecordKind.EVENT:
            level = EventLevel(data["level"])
            told = (data.get("verdict"), data.get("settled"))
            return EventImport(record.time, level, data["message"], *told)
