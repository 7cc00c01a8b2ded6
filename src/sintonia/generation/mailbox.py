"""What a reader has not read yet of one answer.

Invariant: what waits here is merged, so a slow reader costs at most the answer's own tokens,
never an object for each step.
"""

from __future__ import annotations

import asyncio

from sintonia.errors import SintoniaError
from sintonia.generation.base import FinishReason, TokenChunk


class Mailbox:
    """One answer on its way to one reader; to be used from one event loop."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._finish_reason: FinishReason | None = None
        self._error: SintoniaError | None = None
        self._filled = asyncio.Event()

    def put(self, item: TokenChunk | SintoniaError) -> None:
        """Add a chunk behind what waits already, or the error that ends the answer."""
        if isinstance(item, SintoniaError):
            self._error = item
        else:
            self._token_ids.extend(item.token_ids)
            self._finish_reason = item.finish_reason
        self._filled.set()

    async def take(self) -> TokenChunk:
        """Wait for something and return all of it as one chunk.

        Raises the error that ended the answer once the tokens before it are read.
        """
        await self._filled.wait()
        if self._error is not None and not self._token_ids:
            raise self._error
        chunk = TokenChunk(tuple(self._token_ids), self._finish_reason)
        self._token_ids = []
        if self._error is None:
            self._filled.clear()
        return chunk
