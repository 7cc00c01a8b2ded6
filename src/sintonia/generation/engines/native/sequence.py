"""One request while it runs."""

from __future__ import annotations

from torch import Tensor

from sintonia.errors import ContextLengthExceeded, InvalidValue
from sintonia.generation.base import FinishReason, GenerationRequest, TokenChunk
from sintonia.generation.engines.native.cache import SequenceCache
from sintonia.generation.engines.native.residency import Lease
from sintonia.generation.engines.native.runner import Work
from sintonia.generation.engines.native.sampling import Sampler

CHUNK_TOKENS = 256
"""A prompt is computed in chunks that end at multiples of this: the same in any company."""


class Sequence:
    """The tokens of one request, how far they are computed, and the weights they need."""

    def __init__(self, request: GenerationRequest, lease: Lease) -> None:
        self.lease = lease
        self._sampling = request.sampling
        self._token_ids = list(request.prompt_ids)
        self._prompt_length = len(request.prompt_ids)
        self._computed = 0
        self._cache = SequenceCache()
        self._sampler = Sampler(request.sampling)
        _check_prompt(request, lease)

    @property
    def num_pending(self) -> int:
        """How many tokens the next step computes: a chunk of the prompt or the newest token."""
        border = (self._computed // CHUNK_TOKENS + 1) * CHUNK_TOKENS
        return min(len(self._token_ids), border) - self._computed

    def work(self) -> Work:
        """Return what the next step computes."""
        return Work(
            token_ids=self._token_ids[self._computed : self._computed + self.num_pending],
            past=self._computed,
            cache=self._cache,
            adapter=self.lease.adapter,
        )

    def advance(self, logits_V: Tensor) -> TokenChunk | None:
        """Note that ``work`` is done; return the token it led to, or ``None`` inside a prompt.

        Raises ``ServerError`` when the logits are not numbers.
        """
        self._computed += self.num_pending
        if self._computed < len(self._token_ids):
            return None
        token_id = self._sampler.choose(logits_V)
        self._token_ids.append(token_id)
        return TokenChunk((token_id,), self._finish_reason(token_id))

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self._sampling.stop_token_ids:
            return FinishReason.STOP
        generated = len(self._token_ids) - self._prompt_length
        full = len(self._token_ids) >= self.lease.runner.context_tokens
        return FinishReason.LENGTH if full or generated >= self._sampling.max_tokens else None


def _check_prompt(request: GenerationRequest, lease: Lease) -> None:
    """Refuse a prompt that this model cannot continue."""
    length, limit = len(request.prompt_ids), lease.runner.context_tokens
    if length >= limit:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit} tokens, but the prompt has {length} "
            "and the answer needs at least 1. Shorten the prompt.",
        )
    foreign = [i for i in request.prompt_ids if not 0 <= i < lease.runner.vocabulary_size]
    if foreign:
        raise InvalidValue(
            f"Token {foreign[0]} of the prompt: must be from 0 to "
            f"{lease.runner.vocabulary_size - 1}. Use the model's own tokenizer."
        )
