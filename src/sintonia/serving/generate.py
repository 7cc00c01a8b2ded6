"""Engine requests and the pieces that come of them, for any number of answers at once.

Invariant: closing the pieces closes every engine stream, so that no slot works for nobody.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sintonia.data.renderer import Renderer
from sintonia.errors import ContextLengthExceeded, EngineUnavailable, InvalidRequest
from sintonia.generation.base import Engine, GenerationRequest, SamplingParams, TokenChunk
from sintonia.serving.answers import Answer, EndPiece, Piece, Wishes
from sintonia.serving.reading import AnswerReader, Asked
from sintonia.serving.router import ServedModel

_MAX_SEED = 2**63


@dataclass(frozen=True)
class Plan:
    """What the engine is asked for one call of the API, before anything is generated."""

    served: ServedModel
    requests: tuple[GenerationRequest, ...]
    """Prompt by prompt, as many for each as are made."""
    num_prompt_tokens: int
    """Each prompt counted once."""
    wishes: Wishes

    def num_cached_tokens(self, ends: Sequence[Answer | EndPiece]) -> int:
        """Return how many tokens of the prompts the engine had read before this call.

        ``ends`` are of all answers. Those to one prompt share what the first of them reads.
        """
        fewest: dict[int, int] = {}
        for end in ends:
            prompt = end.index // self.wishes.num_made
            fewest[prompt] = min(end.num_cached_tokens, fewest.get(prompt, end.num_cached_tokens))
        return sum(fewest.values())

    def given(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return those of all ``answers`` that are given: of each prompt the likeliest ``n``.

        That is by the mean log-probability of their tokens, the likeliest first.
        """
        made, n = self.wishes.num_made, self.wishes.n
        if made == n:
            return list(answers)
        chosen: list[Answer] = []
        for start in range(0, len(answers), made):
            chosen += sorted(answers[start : start + made], key=_mean_logprob, reverse=True)[:n]
        return [replace(answer, index=index) for index, answer in enumerate(chosen)]


def plan(
    call_id: str,
    served: ServedModel,
    prompts: Sequence[Sequence[int]],
    wishes: Wishes,
    unit: str,
    *,
    scores_prompts: bool = False,
) -> Plan:
    """Return the engine requests for ``prompts``.

    ``unit`` is what the caller sent, in OpenAI's message: ``messages`` or ``prompt``;
    ``scores_prompts``: log-probabilities are wanted of the prompts too.
    Raises ``ContextLengthExceeded``, and ``InvalidRequest`` for a bias on an unknown token.
    """
    _check_bias(wishes, served.renderer)
    requests: list[GenerationRequest] = []
    for prompt in prompts:
        max_tokens = _max_tokens(len(prompt), wishes.max_tokens, served.renderer, unit)
        sampling = _sampling(wishes, served.renderer, max_tokens, scores_prompts=scores_prompts)
        for number in range(wishes.num_made):
            seed = None if wishes.seed is None else (wishes.seed + number) % _MAX_SEED
            own = replace(sampling, seed=seed)
            request_id = f"{call_id}-{len(requests)}"
            requests.append(GenerationRequest(request_id, served.ref, tuple(prompt), own))
    return Plan(served, tuple(requests), sum(len(prompt) for prompt in prompts), wishes)


def _sampling(
    wishes: Wishes, renderer: Renderer, max_tokens: int, *, scores_prompts: bool
) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=wishes.temperature,
        top_p=wishes.top_p,
        top_k=wishes.top_k,
        min_p=wishes.min_p,
        stop_token_ids=renderer.stop_token_ids,
        frequency_penalty=wishes.frequency_penalty,
        presence_penalty=wishes.presence_penalty,
        repetition_penalty=wishes.repetition_penalty,
        logit_bias=wishes.logit_bias,
        top_logprobs=_top_logprobs(wishes),
        prompt_logprobs=scores_prompts,
    )


def _top_logprobs(wishes: Wishes) -> int | None:
    """Return how many log-probabilities the engine tells; a choice of answers needs them too."""
    if wishes.top_logprobs is None and wishes.num_made > wishes.n:
        return 0
    return wishes.top_logprobs


def _mean_logprob(answer: Answer) -> float:
    """Return what answers are chosen by; one without any token comes last."""
    return -math.inf if answer.mean_logprob is None else answer.mean_logprob


def _check_bias(wishes: Wishes, renderer: Renderer) -> None:
    unknown = [token_id for token_id, _ in wishes.logit_bias if token_id >= renderer.num_tokens]
    if unknown:
        raise InvalidRequest(
            f"Invalid key in 'logit_bias': {unknown[0]}. Maximum value is "
            f"{renderer.num_tokens - 1}. Use the ids of this model's own tokenizer.",
            param="logit_bias",
        )


def _max_tokens(num_prompt: int, wanted: int | None, renderer: Renderer, unit: str) -> int:
    """Return how many tokens an answer may have."""
    room = renderer.context_tokens - num_prompt
    if room >= (1 if wanted is None else wanted):
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


async def answer_pieces(engine: Engine, asked: Asked) -> AsyncGenerator[Piece, None]:
    """Yield one answer as it settles, then its end."""
    reader = AnswerReader(asked)
    async with _closing(engine.stream(asked.request)) as chunks:
        async for chunk in chunks:
            for piece in reader.read(chunk):
                yield piece
            if reader.is_over:
                return
    raise EngineUnavailable("The engine ended before the answer did. Try again.")


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
