"""Choosing the next token.

Invariant: a request's choices come from its own random generator, its own logits and its own
answer so far, so the same seed gives the same tokens in any company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sintonia.errors import ServerError
from sintonia.generation.base import SamplingParams
from sintonia.generation.engines.native.adjustment import Adjustment

_LIKELY = 1024
"""How many of the likeliest tokens are sorted first; rarely are more needed."""

_GREEDY_BELOW = 1e-5
"""Closer to 0 a temperature chooses the likeliest token in float32 anyway."""


def require_numbers(logits: Tensor) -> None:
    """Raise ``ServerError`` when logits, of one place or many, are not numbers."""
    if not torch.isfinite(logits.max()):
        raise ServerError(
            "The model's logits are not finite: its weights or its adapter are damaged. "
            "Check them or tune with a lower learning rate."
        )


class Sampler:
    """Chooses the tokens of one request."""

    def __init__(self, sampling: SamplingParams, prompt_ids: Sequence[int] = ()) -> None:
        self._temperature = sampling.temperature
        self._cut = _Cut(sampling.top_k, sampling.top_p, sampling.min_p)
        self._adjustment = Adjustment(sampling, prompt_ids)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    def choose(self, logits_V: Tensor) -> int:
        """Return the next token. Raises ``ServerError`` when the logits are not numbers."""
        require_numbers(logits_V)
        token_id = self._pick(self._adjustment.apply(logits_V))
        self._adjustment.note(token_id, len(logits_V))
        return token_id

    def _pick(self, logits_V: Tensor) -> int:
        if self._temperature < _GREEDY_BELOW:
            return int(logits_V.argmax())
        chances = ((logits_V - logits_V.max()) / self._temperature).softmax(-1)
        if self._cut.keeps_all:
            return self._draw(chances)
        likely, token_ids = self._cut.apply(chances)
        return int(token_ids[self._draw(likely)])

    def _draw(self, weights: Tensor) -> int:
        """Return an index, each as often as its weight says."""
        reached = weights.double().cumsum(-1)
        point = torch.rand(1, dtype=torch.float64, generator=self._generator) * reached[-1]
        index = int(torch.searchsorted(reached, point, right=True))
        return min(index, len(weights) - 1)


@dataclass(frozen=True)
class _Cut:
    """Which tokens may be drawn.

    First the ``top_k`` likeliest, of those the nucleus of ``top_p``, of those the ones that
    ``min_p`` lets pass; transformers has the same order.
    """

    top_k: int
    top_p: float
    min_p: float

    @property
    def keeps_all(self) -> bool:
        return self.top_k == 0 and self.top_p >= 1 and self.min_p == 0

    def apply(self, chances_V: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chances that are left, the likeliest first, and their tokens."""
        likely, token_ids = self._sorted(chances_V)
        if self.top_p < 1:
            before = likely.cumsum(-1) - likely
            count = max(1, int((before < self.top_p).sum()))
            likely, token_ids = likely[:count], token_ids[:count]
        count = max(1, int((likely >= self.min_p * likely[0]).sum()))
        return likely[:count], token_ids[:count]

    def _sorted(self, chances_V: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest chances in order, at least as many as can pass."""
        size = len(chances_V)
        likely, token_ids = chances_V.topk(min(self.top_k or _LIKELY, size))
        if self.top_k:
            return likely / likely.sum(), token_ids
        holds_nucleus = self.top_p < 1 and float(likely.sum()) >= self.top_p
        holds_min_p = float(likely[-1]) < self.min_p * float(likely[0])
        if holds_nucleus or holds_min_p or len(likely) == size:
            return likely, token_ids
        return chances_V.sort(descending=True, stable=True)
