"""Fine-tuning jobs as their callers see them: create, read, cancel, pause, resume.

Invariant: a job and its first event, a status and its event, appear together or not at all.
What the worker does to a job is in ``queue.py``.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from sintonia import failpoints, ids
from sintonia.domain.jobs import (
    EventLevel,
    EventType,
    Job,
    JobCheckpoint,
    JobDraft,
    JobEvent,
    JobStatus,
)
from sintonia.errors import InvalidRequest, JobNotFound
from sintonia.store.database import Database
from sintonia.store.paging import Cursor, Page, read_page
from sintonia.store.rows import checkpoint_of, event_of, job_of
from sintonia.store.tables import CHECKPOINTS, EVENTS, JOB_METADATA, JOBS

ACTIVE = tuple(status for status in JobStatus if not status.is_terminal)
WAITING = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED)
AHEAD = tuple(status for status in ACTIVE if status is not JobStatus.PAUSED)
"""Statuses of jobs that others wait for."""
MAX_SEED = 2**31 - 1

MetricRows = list[Mapping[str, Any]]


class Jobs:
    """The fine-tuning jobs of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, draft: JobDraft) -> Job:
        """Store a job; a seed is drawn unless the draft has one."""
        job_id = ids.new_id(ids.JOB)
        seed = secrets.randbelow(MAX_SEED + 1) if draft.seed is None else draft.seed
        metadata = draft.metadata or {}
        with self._database.write() as connection:
            connection.execute(JOBS.insert().values(_new_row(job_id, draft, seed)))
            for key, value in metadata.items():
                row = {"job_id": job_id, "key": key, "value": value}
                connection.execute(JOB_METADATA.insert().values(row))
            insert_event(connection, job_id, f"Created fine-tuning job: {job_id}", data={})
            failpoints.reach("job.commit")
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """Return a job. Raises ``JobNotFound``."""
        with self._database.read() as connection:
            return read_job(connection, job_id)

    def list(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Job]:
        """Return jobs, the newest first; with ``metadata`` only those that have all its pairs.

        An empty ``metadata`` means the jobs that have none.
        Raises ``InvalidValue`` for an ``after`` that is no job of the list.
        """
        query = having_metadata(select_jobs(), JOBS.c.id, JOB_METADATA, metadata)
        with self._database.read() as connection:
            page = read_page(connection, query, JOBS.c.seq, Cursor(after, limit))
        return Page([job_of(row) for row in page.items], page.has_more)

    def events(
        self, job_id: str, *, after: str | None = None, limit: int = 20, order: str = "desc"
    ) -> Page[JobEvent]:
        """Return a job's events, the newest first unless ``order`` is ``asc``.

        Raises ``JobNotFound``, and ``InvalidValue`` for an ``after`` that is no event of the job.
        """
        query = sa.select(EVENTS).where(EVENTS.c.job_id == job_id)
        with self._database.read() as connection:
            _require(connection, job_id)
            cursor = Cursor(after, limit, is_ascending=order == "asc")
            page = read_page(connection, query, EVENTS.c.seq, cursor)
        return Page([event_of(row) for row in page.items], page.has_more)

    def add_event(
        self,
        job_id: str,
        message: str,
        *,
        level: EventLevel = EventLevel.INFO,
        type: EventType = EventType.MESSAGE,  # noqa: A002 - OpenAI's name
        data: Mapping[str, Any] | None = None,
    ) -> JobEvent:
        """Add a line to a job's history. Raises ``JobNotFound``."""
        with self._database.write() as connection:
            _require(connection, job_id)
            return insert_event(connection, job_id, message, level=level, type=type, data=data)

    def checkpoints(
        self, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[JobCheckpoint]:
        """Return a job's checkpoints, highest step first. Raises ``JobNotFound``."""
        query = sa.select(CHECKPOINTS).where(CHECKPOINTS.c.job_id == job_id)
        with self._database.read() as connection:
            _require(connection, job_id)
            page = read_page(connection, query, CHECKPOINTS.c.step, Cursor(after, limit))
        return Page([checkpoint_of(row) for row in page.items], page.has_more)

    def checkpoint(self, checkpoint_id: str) -> JobCheckpoint | None:
        """Return the checkpoint that has this id, if one has."""
        query = sa.select(CHECKPOINTS).where(CHECKPOINTS.c.id == checkpoint_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else checkpoint_of(row)

    def of_result_file(self, file_id: str) -> Job | None:
        """Return the job that made a result file, if one did."""
        mention = sa.cast(JOBS.c.result_files, sa.Text).contains(f'"{file_id}"', autoescape=True)
        with self._database.read() as connection:
            rows = connection.execute(select_jobs().where(mention))
            return next((job for job in map(job_of, rows) if file_id in job.result_files), None)

    def metrics(self, job_id: str) -> MetricRows:
        """Return the metrics of each step once, in order. Raises ``JobNotFound``."""
        query = (
            sa.select(EVENTS.c.data)
            .where(EVENTS.c.job_id == job_id, EVENTS.c.step.is_not(None))
            .order_by(EVENTS.c.step)
        )
        with self._database.read() as connection:
            _require(connection, job_id)
            return list(connection.scalars(query))

    def cancel(self, job_id: str) -> Job:
        """End a job at once, whatever works on it. Raises ``JobNotFound``, ``InvalidRequest``.

        The worker's claim and the trainer's handle stay in the row: whoever holds the claim
        sees that the job is over and stops the trainer.
        """
        with self._database.write() as connection:
            change = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.status.in_(ACTIVE))
            change = change.values(
                status=JobStatus.CANCELLED, finished_at=int(time.time()), estimated_finish=None
            )
            cancelled = connection.execute(change).rowcount
            job = read_job(connection, job_id)
            if not cancelled:
                raise InvalidRequest(
                    f"Job has already completed: its status is {job.status}. "
                    "Only a job that waits or runs can be cancelled."
                )
            insert_event(connection, job_id, "Fine-tuning job cancelled")
        return job

    def pause(self, job_id: str) -> Job:
        """Ask for a running job to be paused; asking again changes nothing.

        Its worker does it: the job is ``pausing`` until the trainer has saved its work.
        Raises ``JobNotFound``, ``InvalidRequest``.
        """
        asked = {JobStatus.PAUSING, JobStatus.PAUSED}
        with self._database.write() as connection:
            change = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.status == JobStatus.RUNNING)
            is_new = connection.execute(change.values(status=JobStatus.PAUSING)).rowcount
            job = read_job(connection, job_id)
            if job.status not in asked:
                raise InvalidRequest(
                    f"Job {job_id} cannot be paused: its status is {job.status}. "
                    "Only a job that runs can be paused."
                )
            if is_new:
                insert_event(connection, job_id, "Pausing fine-tuning job")
        return job

    def resume(self, job_id: str) -> Job:
        """Let a paused job wait for its turn again. Raises ``JobNotFound``, ``InvalidRequest``."""
        with self._database.write() as connection:
            change = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.status == JobStatus.PAUSED)
            values = {"status": JobStatus.QUEUED, "num_failures": 0, "lease_expires_at": 0.0}
            resumed = connection.execute(change.values(values)).rowcount
            job = read_job(connection, job_id)
            if not resumed:
                raise InvalidRequest(
                    f"Job {job_id} cannot be resumed: its status is {job.status}. "
                    "Only a job that is paused can be resumed."
                )
            insert_event(connection, job_id, "Fine-tuning job resumed, moving job to queued state")
        return job


def select_jobs() -> sa.Select[Any]:
    """Return the query for jobs, with the number of jobs that run or wait before each."""
    other = JOBS.alias()
    before = (
        sa.select(sa.func.count())
        .select_from(other)
        .where(other.c.status.in_(AHEAD), other.c.seq < JOBS.c.seq)
        .scalar_subquery()
    )
    waiting_behind = sa.case((JOBS.c.status.in_(WAITING), before), else_=0)
    return sa.select(JOBS, waiting_behind.label("waiting_behind"))


def having_metadata(
    query: sa.Select[Any],
    job_id: sa.Column[str],
    pairs: sa.Table,
    metadata: Mapping[str, str] | None,
) -> sa.Select[Any]:
    """Return ``query`` for jobs with all pairs of ``metadata``; empty: that have none."""
    if metadata is not None and not metadata:
        return query.where(~sa.exists().where(pairs.c.job_id == job_id))
    for key, value in (metadata or {}).items():
        pair = pairs.alias()
        query = query.where(
            sa.exists().where(pair.c.job_id == job_id, pair.c.key == key, pair.c.value == value)
        )
    return query


def read_job(connection: sa.Connection, job_id: str) -> Job:
    """Return a job inside a transaction. Raises ``JobNotFound``."""
    row = connection.execute(select_jobs().where(JOBS.c.id == job_id)).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return job_of(row)


def insert_event(connection: sa.Connection, job_id: str, message: str, **columns: Any) -> JobEvent:
    """Add an event inside a transaction; ``columns`` are those of ``job_events``."""
    row = {
        "id": ids.new_id(ids.EVENT),
        "job_id": job_id,
        "created_at": int(time.time()),
        "level": EventLevel.INFO,
        "type": EventType.MESSAGE,
        "message": message,
        "data": None,
        **columns,
    }
    connection.execute(EVENTS.insert().values(row))
    return JobEvent(**{name: value for name, value in row.items() if name != "step"})


def has_event(connection: sa.Connection, job_id: str, message: str) -> bool:
    """Tell whether a job's history has this text already."""
    same = sa.select(EVENTS.c.seq).where(EVENTS.c.job_id == job_id, EVENTS.c.message == message)
    return connection.scalar(same.limit(1)) is not None


def _require(connection: sa.Connection, job_id: str) -> None:
    if connection.scalar(sa.select(JOBS.c.seq).where(JOBS.c.id == job_id)) is None:
        raise JobNotFound(job_id)


def _new_row(job_id: str, draft: JobDraft, seed: int) -> dict[str, Any]:
    return {
        "id": job_id,
        "draft": dataclasses.asdict(draft),
        "status": JobStatus.VALIDATING_FILES,
        "seed": seed,
        "created_at": int(time.time()),
        "result_files": [],
        "lease_expires_at": 0.0,
        "attempt": 0,
        "import_offset": 0,
        "num_failures": 0,
        "progress_step": 0,
    }
