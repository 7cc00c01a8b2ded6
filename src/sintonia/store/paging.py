"""Cursors: the part of a list after a given item, and whether there is more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from sintonia.errors import InvalidValue

T = TypeVar("T")

Key = sa.ColumnElement[Any]


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
    connection: sa.Connection,
    query: sa.Select[Any],
    key: Key | tuple[Key, ...],
    cursor: Cursor,
) -> Page[Any]:
    """Return one page of ``query``'s rows, which have an ``id``, in the order of ``key``.

    A later column of a ``key`` of several decides where the ones before are equal; all of them
    together are unique. Raises ``InvalidValue`` for an ``after`` that is no item of the list.
    """
    keys = key if isinstance(key, tuple) else (key,)
    if cursor.after is not None:
        known = query.with_only_columns(*keys).where(query.selected_columns.id == cursor.after)
        start = connection.execute(known.order_by(None)).one_or_none()
        if start is None:
            raise InvalidValue(
                f"after={cursor.after!r}: no item of this list has this id. "
                "Pass the id of the last item of the page before.",
                param="after",
            )
        here, there = sa.tuple_(*keys), sa.tuple_(*(sa.literal(value) for value in start))
        query = query.where(here > there if cursor.is_ascending else here < there)
    order = [part.asc() if cursor.is_ascending else part.desc() for part in keys]
    rows = connection.execute(query.order_by(*order).limit(cursor.limit + 1)).all()
    return Page(items=list(rows[: cursor.limit]), has_more=len(rows) > cursor.limit)
