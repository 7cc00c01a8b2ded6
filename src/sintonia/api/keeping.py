"""Answers of chat that are kept because ``store`` asks for it.

Invariant: keeping neither fails nor holds up an answer. What is kept is written in a thread of
its own once the answer is whole; the answer waits for it for a moment, so that who reads it next
finds it. A client that goes away before leaves nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sintonia.domain.stored_completions import StoredCompletion
from sintonia.errors import SintoniaError
from sintonia.serving.answers import Answer, Piece, whole_answers
from sintonia.store import Store

HEADER = "sintonia-not-stored"
"""Of an answer that is not stored, or not yet: why."""
NOT_YET = "pending"
TOO_MANY = "overloaded"
MOST_WAITING = 256
"""Completions in memory because the database takes none."""

_WAIT_SECONDS = 0.5

_log = logging.getLogger(__name__)

Pieces = AsyncGenerator[Piece, None]
Headers = dict[str, str]


class Keeper:
    """Writes completions one after another; what waits when a process ends is still written."""

    def __init__(self, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._waiting: set[Future[str | None]] = set()

    async def keep(self, store: Store, completion: StoredCompletion) -> Headers:
        """Keep a completion; return the header that tells why it is not, if it is not."""
        if len(self._waiting) >= MOST_WAITING:
            return {HEADER: TOO_MANY}
        writing = self._writer.submit(_write, store, completion)
        self._waiting.add(writing)
        writing.add_done_callback(self._waiting.discard)
        written = asyncio.wrap_future(writing)
        done, _ = await asyncio.wait({written}, timeout=self._wait_seconds)
        why = written.result() if done else NOT_YET
        return {HEADER: why} if why else {}


def _write(store: Store, completion: StoredCompletion) -> str | None:
    """Return the code of what went wrong, if something did."""
    try:
        store.completions.add(completion)
    except (SintoniaError, OSError) as problem:
        _log.warning("%s was answered and is not stored: %s", completion.id, problem)
        return getattr(problem, "code", None) or "server_error"
    return None


async def then_keep(pieces: Pieces, keep: Callable[[Sequence[Answer]], Awaitable[Any]]) -> Pieces:
    """Yield ``pieces``; once all were taken, ``keep`` the answers that they make."""
    seen: list[Piece] = []
    try:
        async for piece in pieces:
            seen.append(piece)
            yield piece
    finally:
        await pieces.aclose()
    await keep(await whole_answers(_each(seen)))


async def _each(pieces: Sequence[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece
