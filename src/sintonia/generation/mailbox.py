"""What a reader has not read yet of one answer.

Invariant: what waits here is merged, so a slow reader costs at most the answer's own tokens,
never an object for each step; what is taken at once is small enough for a line of the wire.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from sintonia.errors import SintoniaError
from sintonia.generation.base import FinishReason, TokenChunk, TokenLogprob

MOST_TAKEN = 2048
"""Tokens in a chunk that is taken; with 20 log-probabilities each they are about 2 MB as text."""

_T = TypeVar("_T")


class Mailbox:
    """One answer on its way to one reader; to be used from one event loop."""

    def __init__(self) -> None:
        self._cached_tokens = 0
        self._prompt_logprobs: list[TokenLogprob] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish_reason: FinishReason | None = None
        self._error: SintoniaError | None = None
        self._filled = asyncio.Event()

    def put(self, item: TokenChunk | SintoniaError) -> None:
        """Add a chunk behind what waits already, or the error that ends the answer."""
        if isinstance(item, SintoniaError):
            self._error = item
        else:
            self._prompt_logprobs.extend(item.prompt_logprobs)
            self._cached_tokens += item.cached_tokens
            self._token_ids.extend(item.token_ids)
            self._logprobs.extend(item.logprobs)
            self._finish_reason = item.finish_reason
        self._filled.set()

    async def take(self) -> TokenChunk:
        """Wait for something and return it as one chunk, as far as it fits.

        Raises the error that ended the answer once the tokens before it are read.
        """
        await self._filled.wait()
        if self._error is not None and self._is_empty:
            raise self._error
        prompt_logprobs = _taken(self._prompt_logprobs, MOST_TAKEN)
        room = MOST_TAKEN - len(prompt_logprobs)
        token_ids, logprobs = _taken(self._token_ids, room), _taken(self._logprobs, room)
        reason = self._finish_reason if self._is_empty else None
        if self._is_empty and self._error is None:
            self._filled.clear()
        cached = self._cached_tokens if token_ids else 0
        self._cached_tokens -= cached
        return TokenChunk(token_ids, reason, logprobs, prompt_logprobs, cached)

    @property
    def _is_empty(self) -> bool:
        return not self._token_ids and not self._prompt_logprobs


def _taken(waiting: list[_T], most: int) -> tuple[_T, ...]:
    """Take the first ``most`` out of ``waiting`` and return them."""
    taken = tuple(waiting[:most])
    del waiting[:most]
    return taken
