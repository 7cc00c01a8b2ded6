"""Where the workers of one batch take requests from and hand their records in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sintonia.api.batching.book import AnswerBook
from sintonia.api.batching.workplace import Workplace
from sintonia.api.schemas.batches import Endpoint
from sintonia.api.translate.batches import Record
from sintonia.data.requests import RequestLine


class Desk:
    """The requests of a batch that are left, and the book for their records."""

    def __init__(self, rest: Iterator[RequestLine], book: AnswerBook, place: Workplace) -> None:
        self._rest = rest
        self._book = book
        self._place = place
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._records: list[Record] = []

    async def answer_some(self, endpoint: Endpoint) -> None:
        """Answer one request after the other until none is left; several may do so at once."""
        while (request := await self._next()) is not None:
            await self._hand_in(await self._place.answerer.answer(request, endpoint))

    async def _next(self) -> RequestLine | None:
        async with self._reading:
            return await self._place.do(next, self._rest, None)

    async def _hand_in(self, record: Record) -> None:
        """Write a record, together with those that came in while others were being written.

        A write that fails ends the batch's work for now, so that nobody counts on its group.
        """
        self._records.append(record)
        async with self._writing:
            group, self._records = self._records, []
            if group:
                await self._place.do(self._book.add, group)
