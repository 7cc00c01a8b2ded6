"""OpenAI's cursors: ``after`` is the id of the last item seen, ``has_more`` tells the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from sintonia.api.schemas.wire import CursorPage, ListPage, Wire
from sintonia.store import Page
from sintonia.store.paging import unknown_cursor

Fact = TypeVar("Fact")
Shown = TypeVar("Shown", bound=Wire)

After = Annotated[str | None, Query(max_length=100)]
"""Parameter type of a cursor."""


def list_page(page: Page[Fact], show: Callable[[Fact], Shown]) -> ListPage[Shown]:
    """Return a page of a store as the wire's list."""
    return ListPage(data=[show(item) for item in page.items], has_more=page.has_more)


def cursor_page(
    page: Page[Fact], show: Callable[[Fact], Shown], id_of: Callable[[Fact], str]
) -> CursorPage[Shown]:
    """Return a page of a store as the wire's list that also names its first and last item."""
    return CursorPage(
        data=[show(item) for item in page.items],
        has_more=page.has_more,
        first_id=id_of(page.items[0]) if page.items else None,
        last_id=id_of(page.items[-1]) if page.items else None,
    )


def page_of(
    items: Sequence[Fact], ids: Sequence[str], *, after: str | None, limit: int
) -> Page[Fact]:
    """Return a page of what is at hand, where no database is asked for it.

    Raises ``InvalidValue`` for an ``after`` that is none of ``ids``.
    """
    if after is not None and after not in ids:
        raise unknown_cursor(after)
    start = 0 if after is None else ids.index(after) + 1
    return Page(list(items[start : start + limit]), has_more=len(items) > start + limit)
