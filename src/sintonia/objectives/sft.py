"""Supervised fine-tuning: the weighted negative log-likelihood of what the assistant said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sintonia.data.forest import EncodedSequence, Forest, pack
from sintonia.models.policy import Policy, TargetScores
from sintonia.objectives.base import LossOutput, SequenceLosses, sum_by_sequence
from sintonia.runs.spec import SftSettings, TrainSpec


def build(spec: TrainSpec) -> Supervised:
    """Return the objective of a run."""
    return Supervised(spec.sft)


@dataclass(frozen=True)
class Supervised:
    """Learns the answers."""

    settings: SftSettings = field(default_factory=SftSettings)
    needs_reference: bool = False

    def batches(self, sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
        """Yield forests of at most ``max_tokens`` that hold every sequence once."""
        return pack(sequences, max_tokens)

    def count(self, forest: Forest) -> float:
        """Return the sum of the targets' weights."""
        return float(forest.weights_N.sum())

    def loss(self, policy: Policy, forest: Forest) -> LossOutput:
        """Return the loss summed over the learned tokens."""
        scores = policy.score(forest)
        weights_N = torch.from_numpy(forest.weights_N).to(policy.device)
        losses_N = -scores.log_probabilities_N * weights_N
        right = float((scores.is_likeliest_N * weights_N).sum())
        return LossOutput(
            self._guided(losses_N, scores, weights_N).sum(),
            self.count(forest),
            {"mean_token_accuracy": right},
            plain_total=losses_N.detach().sum(),
            by_sequence=SequenceLosses(
                totals_S=sum_by_sequence(losses_N.detach(), forest).cpu().numpy(),
                counts_S=np.bincount(
                    forest.sequence_of_N,
                    weights=forest.weights_N,
                    minlength=forest.num_sequences,
                ).astype(np.float64),
            ),
        )

    def _guided(self, losses_N: Tensor, scores: TargetScores, weights_N: Tensor) -> Tensor:
        """Return the losses with label smoothing (Szegedy et al. 2016) and z-loss."""
        smoothing, z_loss = self.settings.label_smoothing, self.settings.z_loss
        if smoothing:
            spread_N = -scores.mean_log_probability_N * weights_N
            losses_N = (1 - smoothing) * losses_N + smoothing * spread_N
        if z_loss:
            losses_N = losses_N + z_loss * scores.normalizer_N.square() * weights_N
        return losses_N
