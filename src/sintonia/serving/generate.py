"""Engine requests and the pieces that come of them, for any number of answers at once.

Invariant: closing the pieces closes every engine stream, so that no slot works for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sintonia.data.renderer import Renderer
from sintonia.errors import ContextLengthExceeded, EngineUnavailable
from sintonia.generation.base import (
    Engine,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenChunk,
)
from sintonia.serving.answers import EndPiece, Piece, StopReason, TextPiece, Wishes
from sintonia.serving.router import ServedModel
from sintonia.serving.text import AnswerText

_MAX_SEED = 2**63


@dataclass(frozen=True)
class Plan:
    """What the engine is asked for one call of the API, before anything is generated."""

    served: ServedModel
    requests: tuple[GenerationRequest, ...]
    """Prompt by prompt, ``n`` for each."""
    num_prompt_tokens: int
    """Each prompt counted once."""


def plan(
    call_id: str, served: ServedModel, prompts: Sequence[Sequence[int]], wishes: Wishes, unit: str
) -> Plan:
    """Return the engine requests for ``prompts``.

    ``unit`` is what the caller sent, in OpenAI's message: ``messages`` or ``prompt``.
    Raises ``ContextLengthExceeded``.
    """
    requests: list[GenerationRequest] = []
    for prompt in prompts:
        max_tokens = _max_tokens(len(prompt), wishes.max_tokens, served.renderer, unit)
        for number in range(wishes.n):
            sampling = SamplingParams(
                max_tokens=max_tokens,
                temperature=wishes.temperature,
                top_p=wishes.top_p,
                seed=None if wishes.seed is None else (wishes.seed + number) % _MAX_SEED,
                stop_token_ids=served.renderer.stop_token_ids,
            )
            request_id = f"{call_id}-{len(requests)}"
            requests.append(GenerationRequest(request_id, served.ref, tuple(prompt), sampling))
    return Plan(served, tuple(requests), sum(len(prompt) for prompt in prompts))


def _max_tokens(num_prompt: int, wanted: int | None, renderer: Renderer, unit: str) -> int:
    """Return how many tokens an answer may have."""
    room = renderer.context_tokens - num_prompt
    if room >= 1 and (wanted is None or wanted <= room):
        return room if wanted is None else wanted
    limit = f"This model's maximum context length is {renderer.context_tokens} tokens. However, "
    if wanted is None:
        raise ContextLengthExceeded(
            f"{limit}your {unit} resulted in {num_prompt} tokens. "
            f"Please reduce the length of the {unit}.",
            param=unit,
        )
    raise ContextLengthExceeded(
        f"{limit}you requested {num_prompt + wanted} tokens ({num_prompt} in the {unit}, "
        f"{wanted} in the completion). Please reduce the length of the {unit} or completion.",
        param=unit,
    )


async def answer_pieces(
    engine: Engine, request: GenerationRequest, index: int, renderer: Renderer, stop: Sequence[str]
) -> AsyncGenerator[Piece, None]:
    """Yield the text of one answer as it settles, then its end."""
    text = AnswerText(renderer.decode, stop, renderer.stop_token_ids)
    num_tokens = 0
    async with _closing(engine.stream(request)) as chunks:
        async for chunk in chunks:
            num_tokens += len(chunk.token_ids)
            new = text.push(chunk.token_ids)
            if chunk.finish_reason is not None:
                new += text.finish()
            if new:
                yield TextPiece(index, new)
            if text.has_stopped:
                yield EndPiece(index, StopReason.STOP, num_tokens)
                return
            if chunk.finish_reason is not None:
                yield EndPiece(index, _REASONS[chunk.finish_reason], num_tokens)
                return
    raise EngineUnavailable("The engine ended before the answer did. Try again.")


_REASONS = {FinishReason.STOP: StopReason.STOP, FinishReason.LENGTH: StopReason.LENGTH}


@asynccontextmanager
async def _closing(stream: AsyncIterator[TokenChunk]) -> AsyncIterator[AsyncIterator[TokenChunk]]:
    """Close an engine's stream at the end, however that comes."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


async def merge(sources: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all ``sources`` as they come; the first error ends them all."""
    queue: asyncio.Queue[Piece | asyncio.Task[None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(source, queue)) for source in sources]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    num_running = len(tasks)
    try:
        while num_running:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                item.result()
                num_running -= 1
                continue
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    source: AsyncGenerator[Piece, None], queue: asyncio.Queue[Piece | asyncio.Task[None]]
) -> None:
    try:
        async for piece in source:
            queue.put_nowait(piece)
    finally:
        await source.aclose()
