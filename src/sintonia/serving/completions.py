"""Raw completions: prompts as text or tokens, continued without any chat format."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sintonia.data.renderer import Renderer
from sintonia.errors import InvalidValue
from sintonia.generation.base import Engine
from sintonia.serving.answers import CompletionRequest, EndPiece, Piece, StopReason, TextPiece
from sintonia.serving.generate import Plan, answer_pieces, merge, plan
from sintonia.serving.reading import Asked
from sintonia.serving.router import ServedModel


def plan_completion(call_id: str, served: ServedModel, request: CompletionRequest) -> Plan:
    """Return what to ask the engine for. Raises ``InvalidRequest`` and its kinds."""
    prompts = [_prompt_ids(prompt, served.renderer) for prompt in request.prompts]
    scores_prompts = request.echo and request.wishes.top_logprobs is not None
    return plan(call_id, served, prompts, request.wishes, "prompt", scores_prompts=scores_prompts)


def completion_pieces(
    engine: Engine, plan: Plan, request: CompletionRequest
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all answers, prompt by prompt; close it to stop generating."""
    sources = []
    for asked in _asked(plan, request):
        sampling = asked.request.sampling
        needs_no_engine = sampling.max_tokens == 0 and not sampling.prompt_logprobs
        sources.append(_nothing(asked) if needs_no_engine else answer_pieces(engine, asked))
    return merge(sources)


def _asked(plan: Plan, request: CompletionRequest) -> list[Asked]:
    wishes, renderer = request.wishes, plan.served.renderer
    shows_tokens = wishes.top_logprobs is not None
    texts = [""] * len(request.prompts)
    if request.echo or shows_tokens:
        texts = [p if isinstance(p, str) else renderer.decode(p) for p in request.prompts]
    return [
        Asked(
            index=index,
            request=engine_request,
            renderer=renderer,
            stop=wishes.stop,
            shows_tokens=shows_tokens,
            prompt_text=texts[index // wishes.num_made],
            is_echoed=request.echo,
        )
        for index, engine_request in enumerate(plan.requests)
    ]


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


async def _nothing(asked: Asked) -> AsyncGenerator[Piece, None]:
    """Yield an answer of no tokens behind its prompt."""
    if asked.is_echoed:
        yield TextPiece(asked.index, asked.prompt_text)
    yield EndPiece(asked.index, StopReason.LENGTH, 0)
