"""Jobs brought over from other servers: read like any job, and never run.

Invariant: a job, its events and its checkpoints appear together or not at all, and an id is
either a job of ours or an imported one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import sqlalchemy as sa

from sintonia.domain.imported import ImportedJob, Json
from sintonia.domain.jobs import Job
from sintonia.errors import JobNotFound
from sintonia.store.database import Database
from sintonia.store.jobs import having_metadata, select_jobs
from sintonia.store.paging import Cursor, Page, read_page
from sintonia.store.rows import Row, job_of
from sintonia.store.tables import (
    IMPORTED_CHECKPOINTS,
    IMPORTED_EVENTS,
    IMPORTED_JOBS,
    IMPORTED_METADATA,
    JOB_METADATA,
    JOBS,
)

INSERTED_ROWS = 500
"""Rows of one statement: enough to be fast, few enough to be small."""


class ImportedJobs:
    """The imported jobs of one store, and the list of all jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job_id: str) -> ImportedJob:
        """Return a job. Raises ``JobNotFound``, for a job of ours too."""
        with self._database.read() as connection:
            return _read(connection, job_id)

    def list_with_own(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Job | ImportedJob]:
        """Return imported jobs and ours in one list, the newest first.

        ``metadata`` is as in ``Jobs.list``. Raises ``InvalidValue`` for an ``after`` that is no
        job of the list.
        """
        keys = _keys(metadata)
        order = (keys.c.created_at, keys.c.is_own, keys.c.seq)
        with self._database.read() as connection:
            page = read_page(connection, sa.select(keys), order, Cursor(after, limit))
            found = dict(_read_all(connection, page.items))
        return Page([found[row.id] for row in page.items], page.has_more)

    def events(self, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[Json]:
        """Return a job's events as they came, the newest first.

        Raises ``JobNotFound``, ``InvalidValue``.
        """
        return self._lines(IMPORTED_EVENTS, job_id, Cursor(after, limit, is_ascending=True))

    def checkpoints(self, job_id: str, *, after: str | None = None, limit: int = 10) -> Page[Json]:
        """Return a job's checkpoints as they came, in the order of the server they came from.

        Raises ``JobNotFound``, ``InvalidValue``.
        """
        return self._lines(IMPORTED_CHECKPOINTS, job_id, Cursor(after, limit, is_ascending=True))

    def _lines(self, table: sa.Table, job_id: str, cursor: Cursor) -> Page[Json]:
        query = sa.select(table).where(table.c.job_id == job_id)
        with self._database.read() as connection:
            _read(connection, job_id)
            page = read_page(connection, query, table.c.seq, cursor)
        return Page([dict(row.object) for row in page.items], page.has_more)


def put_job(
    connection: sa.Connection,
    job: ImportedJob,
    events: Iterable[Json],
    checkpoints: Iterable[Json],
) -> None:
    """Store a job inside a transaction; one that is there is replaced with all that it has.

    Events and checkpoints come in the order in which their server listed them.
    """
    for table in (IMPORTED_EVENTS, IMPORTED_CHECKPOINTS, IMPORTED_METADATA):
        connection.execute(table.delete().where(table.c.job_id == job.id))
    values = {"created_at": job.created_at, "source": job.source, "object": dict(job.object)}
    change = IMPORTED_JOBS.update().where(IMPORTED_JOBS.c.id == job.id).values(values)
    if not connection.execute(change).rowcount:
        connection.execute(IMPORTED_JOBS.insert().values(id=job.id, **values))
    pairs = (
        {"job_id": job.id, "key": key, "value": value}
        for key, value in (job.object.get("metadata") or {}).items()
        if isinstance(value, str)
    )
    _insert(connection, IMPORTED_METADATA, pairs)
    for table, lines in ((IMPORTED_EVENTS, events), (IMPORTED_CHECKPOINTS, checkpoints)):
        rows = ({"id": line["id"], "job_id": job.id, "object": line} for line in lines)
        _insert(connection, table, rows)


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[Json]) -> None:
    while batch := list(islice(rows, INSERTED_ROWS)):
        connection.execute(table.insert(), batch)


def _keys(metadata: Mapping[str, str] | None) -> sa.Subquery:
    """Return id and place of every job: by time, where equal ours first, then the order made."""
    own = sa.select(JOBS.c.id, JOBS.c.created_at, sa.literal(1).label("is_own"), JOBS.c.seq)
    imported = sa.select(
        IMPORTED_JOBS.c.id,
        IMPORTED_JOBS.c.created_at,
        sa.literal(0).label("is_own"),
        IMPORTED_JOBS.c.seq,
    )
    return sa.union_all(
        having_metadata(own, JOBS.c.id, JOB_METADATA, metadata),
        having_metadata(imported, IMPORTED_JOBS.c.id, IMPORTED_METADATA, metadata),
    ).subquery()


def _read_all(
    connection: sa.Connection, keys: Iterable[Row]
) -> Iterator[tuple[str, Job | ImportedJob]]:
    ids: tuple[list[str], list[str]] = ([], [])
    for key in keys:
        ids[key.is_own].append(key.id)
    imported = sa.select(IMPORTED_JOBS).where(IMPORTED_JOBS.c.id.in_(ids[0]))
    own = select_jobs().where(JOBS.c.id.in_(ids[1]))
    yield from ((row.id, _job_of(row)) for row in connection.execute(imported))
    yield from ((row.id, job_of(row)) for row in connection.execute(own))


def _read(connection: sa.Connection, job_id: str) -> ImportedJob:
    query = sa.select(IMPORTED_JOBS).where(IMPORTED_JOBS.c.id == job_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return _job_of(row)


def _job_of(row: Row) -> ImportedJob:
    return ImportedJob(row.id, row.created_at, row.source, row.object)
