"""Choosing the next token.

Invariant: a request's choices come from its own random generator, its own logits and its own
answer so far, so the same seed gives the same tokens in any company.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sintonia.errors import ServerError
from sintonia.generation.base import SamplingParams
from sintonia.generation.engines.native.adjustment import Adjustment

_LIKELY = 1024
"""How many of the likeliest tokens are sorted first; rarely are more needed for ``top_p``."""

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

    def __init__(self, sampling: SamplingParams) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._adjustment = Adjustment(sampling)
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
        if self._top_p >= 1:
            return self._draw(chances)
        likely, token_ids = _nucleus(chances, self._top_p)
        return int(token_ids[self._draw(likely)])

    def _draw(self, weights: Tensor) -> int:
        """Return an index, each as often as its weight says."""
        reached = weights.double().cumsum(-1)
        point = torch.rand(1, dtype=torch.float64, generator=self._generator) * reached[-1]
        index = int(torch.searchsorted(reached, point, right=True))
        return min(index, len(weights) - 1)


def _nucleus(chances_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the fewest likeliest chances that sum to ``top_p``, and their tokens."""
    likely, token_ids = chances_V.topk(min(_LIKELY, len(chances_V)))
    if float(likely.sum()) < top_p:
        likely, token_ids = chances_V.sort(descending=True, stable=True)
    before = likely.cumsum(-1) - likely
    count = max(1, int((before < top_p).sum()))
    return likely[:count], token_ids[:count]
