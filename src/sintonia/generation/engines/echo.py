"""The engine that answers with the end of the prompt.

It holds no weights and knows no text, yet it keeps every promise of ``Engine`` (slots, queue,
stop tokens, finish reasons, cancellation), so tests and demos can run on it. It is sure of every
token, of the prompt's too: each has the probability 1, whatever penalties and bias say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from sintonia.errors import EngineUnavailable, TooManyRequests
from sintonia.generation.base import (
    EngineStatus,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    check_request,
)
from sintonia.settings import Settings


def create(settings: Settings) -> EchoEngine:
    """Make the engine."""
    return EchoEngine(slots=settings.engine_slots, queue=settings.engine_queue)


@dataclass
class EchoEngine:
    """Says the last ``max_tokens`` tokens of the prompt again, one at a time."""

    slots: int
    queue: int

    def __post_init__(self) -> None:
        self._running = 0
        self._waiting = 0
        self._free = asyncio.Semaphore(self.slots)
        self._closed = False

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Yield the echo; see ``Engine.stream``."""
        check_request(request)
        if self._running + self._waiting >= self.slots + self.queue:
            raise TooManyRequests("The engine's queue is full. Try again in a moment.")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            for chunk in _echo(request):
                if self._closed:
                    raise EngineUnavailable("The engine is closing. Try again in a moment.")
                yield chunk
                await asyncio.sleep(0)
        finally:
            self._running -= 1
            self._free.release()

    @property
    def num_held(self) -> int:
        """How many requests run or wait."""
        return self._running + self._waiting

    async def unload(self, adapter_or_base_sha256: str) -> None:
        """Do nothing: there are no weights."""

    async def status(self) -> EngineStatus:
        """Tell how many requests run and wait."""
        return EngineStatus(running=self._running, waiting=self._waiting)

    async def close(self) -> None:
        """End all requests at their next token."""
        self._closed = True


def _echo(request: GenerationRequest) -> Iterator[TokenChunk]:
    """Yield one chunk for each token; the last one says why it is the last.

    The answer stops by itself when the prompt is used up.
    """
    sampling = request.sampling
    if sampling.prompt_logprobs:
        yield TokenChunk(prompt_logprobs=_sure(request.prompt_ids[1:], sampling))
    if sampling.max_tokens == 0:
        yield TokenChunk(finish_reason=FinishReason.LENGTH)
        return
    token_ids = request.prompt_ids[-sampling.max_tokens :]
    for number, token_id in enumerate(token_ids, start=1):
        logprobs = _sure((token_id,), sampling)
        if token_id in sampling.stop_token_ids:
            yield TokenChunk((token_id,), FinishReason.STOP, logprobs)
            return
        last = number == len(token_ids)
        reason = FinishReason.LENGTH if number == sampling.max_tokens else FinishReason.STOP
        yield TokenChunk((token_id,), reason if last else None, logprobs)


def _sure(token_ids: Sequence[int], sampling: SamplingParams) -> tuple[TokenLogprob, ...]:
    """Return the log-probabilities of tokens that could not have been others, if asked for."""
    if sampling.top_logprobs is None:
        return ()
    return tuple(
        TokenLogprob(0.0, ((token_id, 0.0),) if sampling.top_logprobs else ())
        for token_id in token_ids
    )
