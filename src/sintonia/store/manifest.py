"""The manifest of what is brought over from other servers: what they have, and what is here.

Invariant: an item is ``done`` in the same transaction in which what it stands for appears. So
whatever interrupts a migration, the next run finds each thing once, whole, or still to be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from sintonia import failpoints
from sintonia.domain.files import StoredFile
from sintonia.domain.imported import ImportedJob, Item, ItemKind, ItemState, Json
from sintonia.store.blobs import Blobs
from sintonia.store.database import Database
from sintonia.store.imported import INSERTED_ROWS, put_job
from sintonia.store.rows import Row, file_values
from sintonia.store.tables import FILES, MIGRATION_ITEMS

_NOT_HERE = (ItemState.LISTED, ItemState.OPEN, ItemState.LOST)
"""States of items that the next run reads when the server still names them."""


class Manifest:
    """The manifest of one store."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def note(self, source: str, kind: ItemKind, found: Mapping[str, Json | None]) -> None:
        """Take in a page of what a server has, by id, in its order.

        What is here already stays as it is; what could not be had is to be tried again. An id
        without an object, which only a job names, changes nothing that is listed.
        """
        ids = list(found)
        with self._database.write() as connection:
            for begin in range(0, len(ids), INSERTED_ROWS):
                part = {name: found[name] for name in ids[begin : begin + INSERTED_ROWS]}
                _note(connection, source, kind, part)
            failpoints.reach("migrate.note")

    def pending(self, source: str, kind: ItemKind) -> Iterator[Item]:
        """Yield the items of a server that are to be read, the oldest first."""
        # Servers list the newest first.
        yield from self._items(_is_pending(source, kind), MIGRATION_ITEMS.c.seq.desc())

    def num_pending(self, source: str, kind: ItemKind) -> int:
        """Return how many items ``pending`` yields."""
        query = sa.select(sa.func.count()).where(_is_pending(source, kind))
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def items(self, source: str) -> Iterator[Item]:
        """Yield all items of a server, files first, the newest of each kind first."""
        for kind in ItemKind:
            chosen = sa.and_(MIGRATION_ITEMS.c.source == source, MIGRATION_ITEMS.c.kind == kind)
            yield from self._items(chosen, MIGRATION_ITEMS.c.seq.asc())

    def stage(self, file: StoredFile, content: Iterable[bytes]) -> StoredFile:
        """Store the bytes of a file that has an id already; return it with size and hash.

        The file exists once ``keep_file`` has its row. Raises like ``Blobs.write``.
        """
        written = self._blobs.write(file.id, content)
        return dataclasses.replace(file, size_bytes=written.size_bytes, sha256=written.sha256)

    def keep_file(self, item: Item, file: StoredFile, remark: str | None = None) -> None:
        """Let a file whose bytes are staged appear, and its item be done.

        Raises ``ServerError`` when the bytes are gone: whoever sweeps the file store took them
        for what a crash left, because they waited for so long. The item is to be read again then.
        """
        values = {"reason": remark, "size_bytes": file.size_bytes, "sha256": file.sha256}
        with self._database.write() as connection:
            self._blobs.open(file.id).close()
            connection.execute(FILES.insert().values(file_values(file)))
            _settle(connection, item, ItemState.DONE, values)
            failpoints.reach("migrate.file")

    def keep_job(
        self, item: Item, job: ImportedJob, events: Iterable[Json], checkpoints: Iterable[Json]
    ) -> None:
        """Let a job appear, or replace it; ``item`` has the state that it is to have."""
        with self._database.write() as connection:
            put_job(connection, job, events, checkpoints)
            _settle(connection, item, item.state, {"reason": item.reason})
            failpoints.reach("migrate.job")

    def settle(self, item: Item) -> None:
        """Write down how an item ended that brings nothing new: lost, or here already."""
        values = {
            "reason": item.reason,
            "size_bytes": item.size_bytes,
            "sha256": item.sha256,
        }
        with self._database.write() as connection:
            _settle(connection, item, item.state, values)

    def _items(
        self, chosen: sa.ColumnElement[bool], order: sa.UnaryExpression[Any]
    ) -> Iterator[Item]:
        """Yield in parts, so that no transaction stays open while an item is worked on."""
        ids = sa.select(MIGRATION_ITEMS.c.seq).where(chosen).order_by(order)
        with self._database.read() as connection:
            numbers = list(connection.scalars(ids))  # a number for each: memory stays small
        for begin in range(0, len(numbers), INSERTED_ROWS):
            part = numbers[begin : begin + INSERTED_ROWS]
            query = sa.select(MIGRATION_ITEMS).where(MIGRATION_ITEMS.c.seq.in_(part))
            with self._database.read() as connection:
                rows = connection.execute(query.order_by(order)).all()
            yield from map(_item_of, rows)


def _is_pending(source: str, kind: ItemKind) -> sa.ColumnElement[bool]:
    return sa.and_(
        MIGRATION_ITEMS.c.source == source,
        MIGRATION_ITEMS.c.kind == kind,
        MIGRATION_ITEMS.c.state == ItemState.LISTED,
    )


def _note(
    connection: sa.Connection, source: str, kind: ItemKind, found: Mapping[str, Json | None]
) -> None:
    here = sa.select(MIGRATION_ITEMS.c.id, MIGRATION_ITEMS.c.state).where(
        MIGRATION_ITEMS.c.kind == kind, MIGRATION_ITEMS.c.id.in_(list(found))
    )
    states = {row.id: row.state for row in connection.execute(here)}
    new = [
        {"kind": kind, "id": name, "source": source, "state": ItemState.LISTED, "object": value}
        for name, value in found.items()
        if name not in states
    ]
    if new:
        connection.execute(MIGRATION_ITEMS.insert(), new)
    for name, state in states.items():
        value = found[name]
        if state in _NOT_HERE and (value is not None or state == ItemState.LOST):
            again: dict[str, Any] = {"source": source, "state": ItemState.LISTED, "reason": None}
            if value is not None:
                again["object"] = value
            _change(connection, kind, name, again)


def _settle(
    connection: sa.Connection, item: Item, state: ItemState, values: Mapping[str, Any]
) -> None:
    object_ = None if item.object is None else dict(item.object)
    _change(connection, item.kind, item.id, {**values, "state": state, "object": object_})


def _change(
    connection: sa.Connection, kind: ItemKind, item_id: str, values: Mapping[str, Any]
) -> None:
    change = MIGRATION_ITEMS.update().where(
        MIGRATION_ITEMS.c.kind == kind, MIGRATION_ITEMS.c.id == item_id
    )
    connection.execute(change.values(**values))


def _item_of(row: Row) -> Item:
    return Item(
        kind=ItemKind(row.kind),
        id=row.id,
        source=row.source,
        state=ItemState(row.state),
        object=row.object,
        reason=row.reason,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
    )
