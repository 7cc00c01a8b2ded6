"""Supervised fine-tuning: the weighted negative log-likelihood of what the assistant said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from sintonia.data.forest import EncodedSequence, Forest, pack
from sintonia.models.policy import Policy
from sintonia.objectives.base import LossOutput


def batches(sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
    """Yield forests of at most ``max_tokens`` that hold every sequence once."""
    return pack(sequences, max_tokens)


def count(forest: Forest) -> float:
    """Return the sum of the targets' weights."""
    return float(forest.weights_N.sum())


def loss(policy: Policy, forest: Forest) -> LossOutput:
    """Return the loss summed over the learned tokens."""
    scores = policy.score(forest)
    weights_N = torch.from_numpy(forest.weights_N).to(policy.device)
    total = -(scores.log_probabilities_N * weights_N).sum()
    right = float((scores.is_likeliest_N * weights_N).sum())
    return LossOutput(total, count(forest), {"mean_token_accuracy": right})
