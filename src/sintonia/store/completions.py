"""Stored chat completions: a row for each, its metadata beside it to be found by.

Invariant: request and answer appear together or not at all. One whose time has passed is gone
for every reader at once; its row is removed some time later.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from sintonia.domain.stored_completions import CompletionFilter, StoredCompletion
from sintonia.errors import CompletionNotFound
from sintonia.store.database import Database
from sintonia.store.paging import Cursor, Page, read_page
from sintonia.store.tables import COMPLETION_METADATA, COMPLETIONS

_READ_AT_ONCE = 100
_REMOVED_AT_ONCE = 500
"""So that no other writer waits for long."""
_EVERYTHING = CompletionFilter()

Counts = dict[str, int]


class StoredCompletions:
    """The stored completions of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, completion: StoredCompletion) -> None:
        """Keep a completion. Raises what ``Database.write`` raises, and keeps nothing then."""
        with self._database.write() as connection:
            connection.execute(COMPLETIONS.insert().values(dataclasses.asdict(completion)))
            _insert_pairs(connection, completion.id, completion.metadata)

    def get(self, completion_id: str) -> StoredCompletion:
        """Return a completion. Raises ``CompletionNotFound``, for an expired one too."""
        query = _select(_EVERYTHING).where(COMPLETIONS.c.id == completion_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise CompletionNotFound(completion_id)
        return _completion_of(row)

    def list(
        self, wanted: CompletionFilter, *, after: str | None, limit: int, order: str = "asc"
    ) -> Page[StoredCompletion]:
        """Return completions, the oldest first unless ``order`` is ``desc``.

        Raises ``InvalidValue`` for an ``after`` that is no completion of the list.
        """
        cursor = Cursor(after=after, limit=limit, is_ascending=order == "asc")
        with self._database.read() as connection:
            page = read_page(connection, _select(wanted), COMPLETIONS.c.seq, cursor)
        return Page([_completion_of(row) for row in page.items], page.has_more)

    def matching(
        self, wanted: CompletionFilter, *, newest: int | None = None
    ) -> Iterator[StoredCompletion]:
        """Yield completions, the oldest first, in flat memory; ``newest`` keeps so many.

        No transaction stays open between two of them.
        """
        place = self._place_before_newest(wanted, newest)
        while True:
            query = _select(wanted).where(COMPLETIONS.c.seq > place).order_by(COMPLETIONS.c.seq)
            with self._database.read() as connection:
                rows = connection.execute(query.limit(_READ_AT_ONCE)).all()
            yield from map(_completion_of, rows)
            if len(rows) < _READ_AT_ONCE:
                return
            place = rows[-1].seq

    def count_by_model(self) -> Counts:
        """Return how many completions there are of each model, most first."""
        number = sa.func.count()
        query = (
            sa.select(COMPLETIONS.c.model, number)
            .where(_is_living())
            .group_by(COMPLETIONS.c.model)
            .order_by(number.desc(), COMPLETIONS.c.model)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def set_metadata(self, completion_id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        """Replace the metadata. Raises ``CompletionNotFound``."""
        change = COMPLETIONS.update().where(COMPLETIONS.c.id == completion_id, _is_living())
        pairs = COMPLETION_METADATA.c.completion_id == completion_id
        with self._database.write() as connection:
            if not connection.execute(change.values(metadata=dict(metadata))).rowcount:
                raise CompletionNotFound(completion_id)
            connection.execute(COMPLETION_METADATA.delete().where(pairs))
            _insert_pairs(connection, completion_id, metadata)
        return self.get(completion_id)

    def delete(self, completion_id: str) -> None:
        """Remove a completion. Raises ``CompletionNotFound``."""
        with self._database.write() as connection:
            if not _remove(connection, sa.and_(COMPLETIONS.c.id == completion_id, _is_living())):
                raise CompletionNotFound(completion_id)

    def remove_expired(self) -> int:
        """Remove the completions whose time has passed; return how many."""
        is_over = ~_is_living()
        num_removed = 0
        while True:
            some = sa.select(COMPLETIONS.c.id).where(is_over).limit(_REMOVED_AT_ONCE)
            with self._database.write() as connection:
                ids = list(connection.scalars(some))
                num_removed += _remove(connection, COMPLETIONS.c.id.in_(ids)) if ids else 0
            if len(ids) < _REMOVED_AT_ONCE:
                return num_removed

    def _place_before_newest(self, wanted: CompletionFilter, newest: int | None) -> int:
        """Return the ``seq`` after which the ``newest`` completions lie."""
        if newest is None:
            return 0
        query = _select(wanted).with_only_columns(COMPLETIONS.c.seq)
        with self._database.read() as connection:
            before = query.order_by(COMPLETIONS.c.seq.desc()).offset(newest).limit(1)
            return connection.scalar(before) or 0


def _select(wanted: CompletionFilter) -> sa.Select[Any]:
    query = sa.select(COMPLETIONS).where(_is_living())
    if wanted.models:
        query = query.where(COMPLETIONS.c.model.in_(wanted.models))
    if wanted.ids is not None:
        query = query.where(COMPLETIONS.c.id.in_(wanted.ids))
    if wanted.created_after is not None:
        query = query.where(COMPLETIONS.c.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(COMPLETIONS.c.created_at < wanted.created_before)
    return _with_pairs(query, wanted.metadata)


def _with_pairs(query: sa.Select[Any], metadata: Mapping[str, str] | None) -> sa.Select[Any]:
    own = COMPLETION_METADATA.c.completion_id == COMPLETIONS.c.id
    if metadata is not None and not metadata:
        return query.where(~sa.exists().where(own))
    for key, value in (metadata or {}).items():
        pair = COMPLETION_METADATA.alias()
        is_own = pair.c.completion_id == COMPLETIONS.c.id
        query = query.where(sa.exists().where(is_own, pair.c.key == key, pair.c.value == value))
    return query


def _is_living() -> sa.ColumnElement[bool]:
    return COMPLETIONS.c.expires_at > int(time.time())


def _remove(connection: sa.Connection, meant: sa.ColumnElement[bool]) -> int:
    """Remove completions with their pairs; return how many."""
    gone = sa.select(COMPLETIONS.c.id).where(meant)
    connection.execute(
        COMPLETION_METADATA.delete().where(COMPLETION_METADATA.c.completion_id.in_(gone))
    )
    return connection.execute(COMPLETIONS.delete().where(meant)).rowcount


def _insert_pairs(connection: sa.Connection, completion_id: str, pairs: Mapping[str, str]) -> None:
    rows = [{"completion_id": completion_id, "key": k, "value": v} for k, v in pairs.items()]
    if rows:
        connection.execute(COMPLETION_METADATA.insert(), rows)


def _completion_of(row: sa.Row[Any]) -> StoredCompletion:
    return StoredCompletion(
        id=row.id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        model=row.model,
        request=row.request,
        answer=row.answer,
        metadata=row.metadata,
        request_id=row.request_id,
    )
