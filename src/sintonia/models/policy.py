"""The model that is trained, as objectives see it: forests in, log-probabilities out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sintonia.data.forest import Forest
from sintonia.models import attention
from sintonia.models.attention import ForestOnDevice
from sintonia.models.separate import logits_of_rows
from sintonia.models.vocabulary import score_targets


@dataclass(frozen=True)
class TargetScores:
    """What the model thinks of the N learned targets of a forest."""

    log_probabilities_N: Tensor
    is_likeliest_N: Tensor
    """Whether the target is the token that the model would choose."""
    normalizer_N: Tensor
    """``log(sum(exp(logits)))`` where the target is predicted."""
    mean_log_probability_N: Tensor
    """The mean over the vocabulary there."""


class Policy:
    """A causal language model whose only business is scoring forests."""

    def __init__(self, model: PreTrainedModel, *, rounds_products: bool = False) -> None:
        """``rounds_products``: compute in bfloat16 over weights that stay as wide as they are."""
        self.model = model
        self._rounds_products = rounds_products

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    def score(self, forest: Forest) -> TargetScores:
        """Return the log-probability of each target. Only what is learned meets the vocabulary.

        ``U`` positions predict the ``N`` targets: the model's own head sees each once. All
        gathers are ``index_select``, whose backward adds in a fixed order (that of ``h[i]``
        does not on a CPU, and resuming would not be exact).
        """
        places_U, which_N = torch.unique(
            torch.from_numpy(forest.predict_from_N), return_inverse=True
        )
        which_N = which_N.to(self.device)
        targets_N = torch.from_numpy(forest.targets_N).to(self.device)
        logits_UV = self._logits(forest, places_U.to(self.device))
        found = score_targets(logits_UV, which_N, targets_N)
        return TargetScores(
            found.chosen_N - found.normalizer_N,
            found.is_likeliest_N,
            found.normalizer_N,
            found.mean_N - found.normalizer_N,
        )

    def _logits(self, forest: Forest, places_U: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._rounds_products):
            return self._forward(forest, places_U).float()

    def _forward(self, forest: Forest, places_U: Tensor) -> Tensor:
        if not attention.is_used_by(self.model):
            return logits_of_rows(self.model, forest, places_U)
        pattern = ForestOnDevice.of(forest, self.device, places_U)
        output = self.model(
            input_ids=pattern.tokens_T[None],
            position_ids=pattern.positions_T[None],
            logits_to_keep=places_U,
            use_cache=False,
            forest=pattern,
        )
        logits_UV: Tensor = output.logits.squeeze(0)
        return logits_UV
