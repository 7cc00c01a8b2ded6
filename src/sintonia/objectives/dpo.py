"""Direct preference optimization (Rafailov et al. 2023).

The reward of an answer is ``beta`` times how much likelier the policy finds it than it did as the
job began; the loss is ``-log sigmoid`` of the difference between the preferred answer's reward
and the other's. With label smoothing, that share of the preferences is taken to be the wrong way
round (conservative DPO, Mitchell 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sintonia.data.forest import EncodedSequence, Forest, IntArray, pack_rows
from sintonia.models.policy import Policy
from sintonia.objectives.base import LossOutput, SequenceLosses, sum_by_sequence
from sintonia.runs.spec import DpoSettings, TrainSpec


def build(spec: TrainSpec) -> DirectPreference:
    """Return the objective of a run."""
    return DirectPreference(spec.dpo)


@dataclass(frozen=True)
class DirectPreference:
    """Learns which of two answers is preferred. P pairs of a forest's S sequences."""

    settings: DpoSettings = field(default_factory=DpoSettings)
    needs_reference: bool = True

    def batches(self, sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
        """Yield forests of whole pairs, of at most ``max_tokens`` where a pair allows it."""
        return pack_rows(sequences, max_tokens)

    def count(self, forest: Forest) -> float:
        """Return the number of pairs."""
        return forest.num_sequences / 2

    def loss(self, policy: Policy, forest: Forest) -> LossOutput:
        """Return the loss summed over the pairs."""
        preferred_P, other_P = _pairs(forest)
        rewards_S = self._rewards(policy, forest)
        chosen_P = rewards_S.index_select(0, torch.from_numpy(preferred_P).to(policy.device))
        rejected_P = rewards_S.index_select(0, torch.from_numpy(other_P).to(policy.device))
        margins_P = chosen_P - rejected_P
        losses_P, smoothing = -logsigmoid(margins_P), self.settings.label_smoothing
        guided_P = (1 - smoothing) * losses_P - smoothing * logsigmoid(-margins_P)
        metrics = {
            "reward_chosen": chosen_P,
            "reward_rejected": rejected_P,
            "reward_margin": margins_P,
            "reward_accuracy": margins_P > 0,
        }
        return LossOutput(
            guided_P.sum(),
            self.count(forest),
            {name: float(values_P.detach().sum()) for name, values_P in metrics.items()},
            plain_total=losses_P.detach().sum(),
            by_sequence=_at_the_preferred(losses_P, preferred_P),
        )

    def _rewards(self, policy: Policy, forest: Forest) -> Tensor:
        scores_S = sum_by_sequence(policy.score(forest).log_probabilities_N, forest)
        references_S = torch.from_numpy(forest.references_S).to(policy.device)
        return self.settings.beta * (scores_S - references_S)


def _pairs(forest: Forest) -> tuple[IntArray, IntArray]:
    """Return the numbers of the preferred sequences and of the others, row by row."""
    order = np.lexsort((forest.places_S, forest.rows_S))
    preferred_P, other_P = order[0::2], order[1::2]
    assert np.array_equal(forest.rows_S[preferred_P], forest.rows_S[other_P]), "whole pairs"
    return preferred_P, other_P


def _at_the_preferred(losses_P: Tensor, preferred_P: IntArray) -> SequenceLosses:
    totals_S, counts_S = np.zeros((2, 2 * len(preferred_P)))
    totals_S[preferred_P] = losses_P.detach().cpu().numpy()
    counts_S[preferred_P] = 1.0
    return SequenceLosses(totals_S, counts_S)
