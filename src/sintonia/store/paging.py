"""Cursors: the part of a list after a given item, and whether there is more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from sintonia.errors import InvalidValue

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list."""

    items: list[T]
    has_more: bool


@dataclass(frozen=True)
class Cursor:
    """Where a page begins, how long it is and which way it goes."""

    after: str | None
    """The id of the last item of the page before; ``None`` begins at the start."""
    limit: int
    is_ascending: bool = False


def read_page(
    connection: sa.Connection, query: sa.Select[Any], key: sa.Column[Any], cursor: Cursor
) -> Page[Any]:
    """Return one page of ``query``'s rows, ordered by the column ``key`` of a table with ``id``.

    Raises ``InvalidValue`` for an ``after`` that is no item of the list.
    """
    if cursor.after is not None:
        table_id = key.table.c.id
        known = query.with_only_columns(key).where(table_id == cursor.after)
        start = connection.scalar(known.order_by(None))
        if start is None:
            raise InvalidValue(
                f"after={cursor.after!r}: no item of this list has this id. "
                "Pass the id of the last item of the page before.",
                param="after",
            )
        query = query.where(key > start if cursor.is_ascending else key < start)
    order = key.asc() if cursor.is_ascending else key.desc()
    rows = connection.execute(query.order_by(order).limit(cursor.limit + 1)).all()
    return Page(items=list(rows[: cursor.limit]), has_more=len(rows) > cursor.limit)
