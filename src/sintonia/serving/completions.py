"""Raw completions: prompts as text or tokens, continued without any chat format."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sintonia.data.renderer import Renderer
from sintonia.errors import InvalidValue
from sintonia.generation.base import Engine
from sintonia.serving.answers import CompletionRequest, EndPiece, Piece, StopReason, TextPiece
from sintonia.serving.generate import Plan, answer_pieces, merge, plan
from sintonia.serving.router import ServedModel


def plan_completion(call_id: str, served: ServedModel, request: CompletionRequest) -> Plan:
    """Return what to ask the engine for. Raises ``InvalidValue`` and ``ContextLengthExceeded``."""
    prompts = [_prompt_ids(prompt, served.renderer) for prompt in request.prompts]
    return plan(call_id, served, prompts, request.wishes, "prompt")


def completion_pieces(
    engine: Engine, plan: Plan, request: CompletionRequest
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all answers, prompt by prompt; close it to stop generating."""
    renderer = plan.served.renderer
    sources = []
    for index, engine_request in enumerate(plan.requests):
        if request.wishes.max_tokens == 0:
            pieces = _nothing(index)
        else:
            pieces = answer_pieces(engine, engine_request, index, renderer, request.wishes.stop)
        if request.echo:
            prompt = request.prompts[index // request.wishes.n]
            text = prompt if isinstance(prompt, str) else renderer.decode(prompt)
            pieces = _after(TextPiece(index, text), pieces)
        sources.append(pieces)
    return merge(sources)


def _prompt_ids(prompt: str | tuple[int, ...], renderer: Renderer) -> list[int]:
    if isinstance(prompt, str):
        return renderer.completion_prompt(prompt)
    unknown = next((token for token in prompt if not 0 <= token < renderer.num_tokens), None)
    if unknown is not None:
        raise InvalidValue(
            f"Invalid 'prompt': token {unknown} does not exist; this model's tokens are "
            f"0 to {renderer.num_tokens - 1}.",
            param="prompt",
        )
    return list(prompt)


async def _nothing(index: int) -> AsyncGenerator[Piece, None]:
    """Yield the end of an answer of no tokens."""
    yield EndPiece(index, StopReason.LENGTH, 0)


async def _after(first: Piece, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()
