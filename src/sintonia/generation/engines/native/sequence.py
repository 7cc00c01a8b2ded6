"""One request while it runs."""

from __future__ import annotations

from torch import Tensor

from sintonia.errors import ContextLengthExceeded, InvalidValue
from sintonia.generation.base import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
)
from sintonia.generation.engines.native.cache import BLOCK_TOKENS, SequenceCache
from sintonia.generation.engines.native.logprobs import logprobs_of
from sintonia.generation.engines.native.prefixes import Prefixes
from sintonia.generation.engines.native.prompt_scores import PromptScores
from sintonia.generation.engines.native.residency import Lease
from sintonia.generation.engines.native.runner import Work
from sintonia.generation.engines.native.sampling import Sampler

CHUNK_TOKENS = 256
"""A prompt is computed in chunks that end at multiples of this: the same in any company."""


class Sequence:
    """The tokens of one request, how far they are computed, and the weights they need."""

    def __init__(
        self, request: GenerationRequest, lease: Lease, prefixes: Prefixes, cache_bytes: int
    ) -> None:
        """``cache_bytes`` is what keys and values may take. Raises ``ContextLengthExceeded``."""
        self.lease = lease
        self._model = request.model
        self._prompt_ids = request.prompt_ids
        self._prefixes = prefixes
        self._num_recalled = 0
        self._has_paused = False
        self._sampling = request.sampling
        self._token_ids = list(request.prompt_ids)
        self._prompt_length = len(request.prompt_ids)
        self._computed = 0
        self._max_tokens = _max_tokens(lease, cache_bytes)
        self._cache = SequenceCache(self._max_tokens)
        self._sampler = Sampler(request.sampling, request.prompt_ids)
        self._scores = PromptScores(request.prompt_ids, request.sampling)
        _check_tokens(request, lease)
        self._check_room(cache_bytes)

    @property
    def held_bytes(self) -> int:
        """What its keys and values take now."""
        return self._cache.capacity_tokens * self.lease.runner.token_bytes

    @property
    def bytes_after_step(self) -> int:
        """What they take once the next step is computed."""
        return self._bytes_at(self._computed + self.num_pending)

    @property
    def bytes_when_caught_up(self) -> int:
        """What they take once all tokens that there are have been computed."""
        return self._bytes_at(len(self._token_ids))

    def _bytes_at(self, total: int) -> int:
        return self._cache.capacity_at(total) * self.lease.runner.token_bytes

    def recall(self) -> None:
        """Take over what others have computed of this prompt from here on."""
        place, rest = divmod(self._computed, BLOCK_TOKENS)
        if rest or self._computed + 1 >= self._prompt_length or self._sampling.prompt_logprobs:
            return  # log-probabilities are told of all the prompt
        blocks = self._prefixes.find(self._model, self._prompt_ids)[place:]
        self._cache.take_over(place, blocks)
        if self._computed == 0 and not self._has_paused:
            self._num_recalled = len(blocks) * BLOCK_TOKENS
        self._computed += len(blocks) * BLOCK_TOKENS

    def forget(self) -> None:
        """Let go of the keys and values; they are computed anew when it goes on.

        The tokens so far stay, and so does the sampler: nothing is said twice.
        """
        self._computed = 0
        self._has_paused = True
        self._cache = SequenceCache(self._max_tokens)

    @property
    def num_pending(self) -> int:
        """How many tokens the next step computes: a chunk of the prompt or the newest token."""
        border = (self._computed // CHUNK_TOKENS + 1) * CHUNK_TOKENS
        return min(len(self._token_ids), border) - self._computed

    def work(self) -> Work:
        """Return what the next step computes."""
        past, count = self._computed, self.num_pending
        return Work(
            token_ids=self._token_ids[past : past + count],
            past=past,
            cache=self._cache,
            adapter=self.lease.adapter,
            num_logits=max(1, self._scores.rows_wanted(past, count)),
        )

    def advance(self, logits_NV: Tensor) -> TokenChunk | None:
        """Note that ``work`` is done; return what it led to, or ``None`` inside a prompt.

        ``logits_NV`` are those that ``work`` asked for. Raises ``ServerError`` when they are not
        numbers.
        """
        past, count = self._computed, self.num_pending
        scores: tuple[TokenLogprob, ...] = ()
        if self._scores.rows_wanted(past, count):
            scores = self._scores.read(logits_NV, past)
        self._computed += count
        self._share(past)
        if self._computed < len(self._token_ids):
            return TokenChunk(prompt_logprobs=scores) if scores else None
        if self._sampling.max_tokens == 0:
            return TokenChunk(finish_reason=FinishReason.LENGTH, prompt_logprobs=scores)
        token_id = self._sampler.choose(logits_NV[-1])
        self._token_ids.append(token_id)
        reason, logprobs = self._finish_reason(token_id), self._logprobs(logits_NV[-1:], token_id)
        return TokenChunk((token_id,), reason, logprobs, scores, self._told_once())

    def _share(self, past: int) -> None:
        """Keep the blocks of the prompt that the step has made whole, for other requests."""
        end = min(self._computed, self._prompt_length)
        for place in range(past // BLOCK_TOKENS, end // BLOCK_TOKENS):
            block = self._cache.block(place)
            self._prefixes.add(self._model, self._prompt_ids, place, block)

    def _told_once(self) -> int:
        """Return, with the first token, how much of the prompt was there when it began."""
        is_first = len(self._token_ids) == self._prompt_length + 1
        return self._num_recalled if is_first else 0

    def _logprobs(self, logits_1V: Tensor, token_id: int) -> tuple[TokenLogprob, ...]:
        top = self._sampling.top_logprobs
        return () if top is None else logprobs_of(logits_1V, [token_id], top)

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self._sampling.stop_token_ids:
            return FinishReason.STOP
        generated = len(self._token_ids) - self._prompt_length
        full = len(self._token_ids) >= self._max_tokens
        return FinishReason.LENGTH if full or generated >= self._sampling.max_tokens else None

    def _check_room(self, cache_bytes: int) -> None:
        if self._prompt_length + _least_answer(self._sampling) > self._max_tokens:
            raise ContextLengthExceeded(
                f"This server keeps at most {cache_bytes} bytes of what a model has read, which is "
                f"{self._max_tokens} tokens of this model, but the prompt has "
                f"{self._prompt_length} and the answer needs at least 1. Shorten the prompt, or "
                "have the operator raise engine_cache_bytes."
            )


def _max_tokens(lease: Lease, cache_bytes: int) -> int:
    """Return how long a sequence can get: the context, or what there is room for."""
    token_bytes, context = lease.runner.token_bytes, lease.runner.context_tokens
    if token_bytes == 0:
        return context
    return min(context, cache_bytes // (token_bytes * BLOCK_TOKENS) * BLOCK_TOKENS)


def _least_answer(sampling: SamplingParams) -> int:
    """Return how many tokens there must be room for behind the prompt."""
    return 0 if sampling.max_tokens == 0 else 1


def _check_tokens(request: GenerationRequest, lease: Lease) -> None:
    """Refuse a prompt that this model cannot continue, and a bias on tokens it does not have."""
    length, limit = len(request.prompt_ids), lease.runner.context_tokens
    if length + _least_answer(request.sampling) > limit:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit} tokens, but the prompt has {length} "
            "and the answer needs at least 1. Shorten the prompt.",
        )
    size = lease.runner.vocabulary_size
    biased = [token_id for token_id, _ in request.sampling.logit_bias]
    for what, token_ids in (("the prompt", request.prompt_ids), ("logit_bias", biased)):
        foreign = [i for i in token_ids if not 0 <= i < size]
        if foreign:
            raise InvalidValue(
                f"Token {foreign[0]} of {what}: must be from 0 to {size - 1}. "
                "Use the model's own tokenizer."
            )
