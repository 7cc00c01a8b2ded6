"""Batches: created and cancelled by their callers, led through their statuses by the runner.

Invariant: a batch moves only as its state machine says, whoever moves it and whatever was read
before; its files of answers appear together with its last status or not at all.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from sintonia import failpoints, ids
from sintonia.domain.batches import (
    TRANSITIONS,
    WINDOW_SECONDS,
    Batch,
    BatchDraft,
    BatchProblem,
    BatchStatus,
    BatchTally,
)
from sintonia.domain.files import StoredFile
from sintonia.errors import BatchNotFound, InvalidRequest
from sintonia.store.database import Database
from sintonia.store.paging import Cursor, Page, read_page
from sintonia.store.rows import batch_of, file_values
from sintonia.store.tables import BATCHES, FILES

ACTIVE = tuple(status for status in BatchStatus if not status.is_terminal)


@dataclass(frozen=True)
class BatchOutcome:
    """What a batch ended with."""

    tally: BatchTally = field(default_factory=BatchTally)
    output: StoredFile | None = None
    """Its bytes are stored; its row is not. ``None``: no request was answered."""
    errors: StoredFile | None = None
    """The same of the requests that failed."""


class Batches:
    """The batches of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, draft: BatchDraft) -> Batch:
        """Store a batch; its window begins now."""
        batch_id, now = ids.new_id(ids.BATCH), int(time.time())
        row = {
            "id": batch_id,
            "draft": dataclasses.asdict(draft),
            "status": BatchStatus.VALIDATING,
            "created_at": now,
            "expires_at": now + WINDOW_SECONDS,
            "entered_at": {BatchStatus.VALIDATING: now},
            "num_requests": 0,
            "tally": {},
            "problems": [],
        }
        with self._database.write() as connection:
            connection.execute(BATCHES.insert().values(row))
            failpoints.reach("batch.create")
        return self.get(batch_id)

    def get(self, batch_id: str) -> Batch:
        """Return a batch. Raises ``BatchNotFound``."""
        with self._database.read() as connection:
            return _read(connection, batch_id)

    def list(self, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        """Return batches, the newest first.

        Raises ``InvalidValue`` for an ``after`` that is no batch.
        """
        with self._database.read() as connection:
            page = read_page(connection, sa.select(BATCHES), BATCHES.c.seq, Cursor(after, limit))
        return Page([batch_of(row) for row in page.items], page.has_more)

    def active(self) -> Sequence[Batch]:
        """Return the batches that have not ended, the oldest first."""
        query = sa.select(BATCHES).where(BATCHES.c.status.in_(ACTIVE)).order_by(BATCHES.c.seq)
        with self._database.read() as connection:
            return [batch_of(row) for row in connection.execute(query)]

    def cancel(self, batch_id: str) -> Batch:
        """Ask for a batch to end with what is done; asking again changes nothing.

        It is ``cancelling`` until the runner has written its files.
        Raises ``BatchNotFound``, ``InvalidRequest``.
        """
        with self._database.write() as connection:
            is_new = _move(connection, batch_id, BatchStatus.CANCELLING, {})
            batch = _read(connection, batch_id)
        if not is_new and batch.status is not BatchStatus.CANCELLING:
            raise InvalidRequest(
                f"Cannot cancel a batch with status '{batch.status}'. Only a batch that is "
                "validating or in_progress can be cancelled."
            )
        return batch

    def admit(self, batch_id: str, model: str, num_requests: int) -> bool:
        """Let a checked batch begin; ``False``: it was moved elsewhere meanwhile."""
        values = {"model": model, "num_requests": num_requests}
        return self._move(batch_id, BatchStatus.IN_PROGRESS, values)

    def finalize(self, batch_id: str) -> bool:
        """Let a batch end with what is done; ``False``: it was moved elsewhere meanwhile."""
        return self._move(batch_id, BatchStatus.FINALIZING, {})

    def fail(self, batch_id: str, problems: Sequence[BatchProblem]) -> bool:
        """End a batch that cannot be answered; ``False``: it has ended or was cancelled."""
        values = {"problems": [dataclasses.asdict(problem) for problem in problems]}
        return self._move(batch_id, BatchStatus.FAILED, values)

    def note(self, batch_id: str, tally: BatchTally) -> None:
        """Say how far an active batch has come."""
        change = BATCHES.update().where(BATCHES.c.id == batch_id, BATCHES.c.status.in_(ACTIVE))
        with self._database.write() as connection:
            connection.execute(change.values(tally=dataclasses.asdict(tally)))

    def settle(self, batch_id: str, status: BatchStatus, outcome: BatchOutcome) -> bool:
        """End a batch: its files, counts and status at once; ``False``: it has ended already."""
        files = [file for file in (outcome.output, outcome.errors) if file is not None]
        values = {
            "tally": dataclasses.asdict(outcome.tally),
            "output_file_id": outcome.output and outcome.output.id,
            "error_file_id": outcome.errors and outcome.errors.id,
        }
        with self._database.write() as connection:
            if not _move(connection, batch_id, status, values):
                return False
            for file in files:
                connection.execute(FILES.insert().values(file_values(file)))
            failpoints.reach("batch.commit")
        return True

    def _move(self, batch_id: str, status: BatchStatus, values: dict[str, Any]) -> bool:
        with self._database.write() as connection:
            return _move(connection, batch_id, status, values)


def _move(
    connection: sa.Connection, batch_id: str, status: BatchStatus, values: dict[str, Any]
) -> bool:
    """Change a batch and its status, if it may go there from where it is now.

    Raises ``BatchNotFound``.
    """
    batch = _read(connection, batch_id, for_update=True)
    if status not in TRANSITIONS[batch.status]:
        return False
    entered_at = {**batch.entered_at, status: int(time.time())}
    change = BATCHES.update().where(BATCHES.c.id == batch_id)
    connection.execute(change.values(status=status, entered_at=entered_at, **values))
    return True


def _read(connection: sa.Connection, batch_id: str, *, for_update: bool = False) -> Batch:
    query = sa.select(BATCHES).where(BATCHES.c.id == batch_id)
    row = connection.execute(query.with_for_update() if for_update else query).one_or_none()
    if row is None:
        raise BatchNotFound(batch_id)
    return batch_of(row)
