"""What a request adds to the model's logits before a token is chosen: a bias and penalties.

Invariant: nothing is computed, and nothing held, for a request that asks for none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sintonia.generation.base import SamplingParams


class Repetition:
    """Makes the tokens of the prompt and the answer less likely (Keskar et al. 2019)."""

    def __init__(self, penalty: float, prompt_ids: Sequence[int]) -> None:
        self._penalty = penalty
        self._seen = set(prompt_ids) if penalty != 1 else set[int]()

    def apply(self, logits_V: Tensor) -> Tensor:
        """Return the logits with those of seen tokens nearer to minus infinity."""
        if not self._seen:
            return logits_V
        seen_S = torch.tensor(sorted(self._seen))
        old_S = logits_V[seen_S]
        new_S = torch.where(old_S > 0, old_S / self._penalty, old_S * self._penalty)
        return logits_V.index_copy(0, seen_S, new_S)

    def note(self, token_id: int) -> None:
        """Remember a token that was chosen."""
        if self._penalty != 1:
            self._seen.add(token_id)


class Adjustment:
    """The adjustment of one request, which knows what its answer has so far.

    As OpenAI documents it: a logit loses ``frequency_penalty`` for each time that its token was
    chosen, and ``presence_penalty`` once it was chosen at all; ``logit_bias`` is added. The
    prompt does not count there; before it, for ``repetition_penalty``, it does.
    """

    def __init__(self, sampling: SamplingParams, prompt_ids: Sequence[int] = ()) -> None:
        self._repetition = Repetition(sampling.repetition_penalty, prompt_ids)
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._penalizes = self._frequency != 0 or self._presence != 0
        self._bias: tuple[Tensor, Tensor] | None = None
        if sampling.logit_bias:
            token_ids, values = zip(*sampling.logit_bias, strict=True)
            self._bias = torch.tensor(token_ids), torch.tensor(values, dtype=torch.float32)
        self._counts_V: Tensor | None = None
        """How often each token was chosen; made when one was."""

    def apply(self, logits_V: Tensor) -> Tensor:
        """Return the logits to choose from; ``logits_V`` itself stays as it is."""
        adjusted = self._repetition.apply(logits_V)
        if self._counts_V is not None:
            said = self._counts_V
            adjusted = adjusted - self._frequency * said - self._presence * (said > 0)
        if self._bias is not None:
            adjusted = adjusted.index_add(0, *self._bias)
        return adjusted

    def note(self, token_id: int, vocabulary_size: int) -> None:
        """Count a token that was chosen."""
        self._repetition.note(token_id)
        if not self._penalizes:
            return
        if self._counts_V is None:
            self._counts_V = torch.zeros(vocabulary_size)
        self._counts_V[token_id] += 1
