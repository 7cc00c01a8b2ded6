"""Answers of chat that are kept because ``store`` asks for it.

Invariant: keeping neither fails nor holds up an answer. What is kept is written in a thread once
the answer is whole; the answer waits for it for a moment, so that who reads it next finds it. A
client that goes away before leaves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anyio import move_on_after, to_thread

from sintonia.domain.stored_completions import StoredCompletion
from sintonia.errors import SintoniaError
from sintonia.serving.answers import Answer, Piece, whole_answers
from sintonia.store import Store

HEADER = "sintonia-not-stored"
"""Of an answer that is not stored, or not yet: why."""
NOT_YET = "pending"

_WAIT_SECONDS = 0.5

_log = logging.getLogger(__name__)

Pieces = AsyncGenerator[Piece, None]
Headers = dict[str, str]


@dataclass(frozen=True)
class Keeper:
    """Writes completions into a store, for a while."""

    store: Store
    wait_seconds: float = _WAIT_SECONDS

    async def keep(self, completion: StoredCompletion) -> Headers:
        """Keep a completion; return the header that tells why it is not, if it is not."""
        why: str | None = NOT_YET
        with move_on_after(self.wait_seconds):
            why = await to_thread.run_sync(self._write, completion, abandon_on_cancel=True)
        return {HEADER: why} if why else {}

    def _write(self, completion: StoredCompletion) -> str | None:
        """Return the code of what went wrong, if something did."""
        try:
            self.store.completions.add(completion)
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
