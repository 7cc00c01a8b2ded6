"""From the logits of a forest to what is asked of them, with few passes over the vocabulary.

Shapes: U positions that predict, V tokens of the vocabulary, N targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class _ScoredTargets(torch.autograd.Function):
    """The logits are overwritten by their exponentials, which the backward pass needs."""

    @staticmethod
    def forward(
        ctx: Any, logits_UV: Tensor, which_N: Tensor, targets_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits_UV = logits_UV.detach()
        places_N = which_N * logits_UV.shape[1] + targets_N
        chosen_N = logits_UV.view(-1).index_select(0, places_N)
        mean_U = logits_UV.mean(dim=1)
        largest_U = logits_UV.amax(dim=1)
        is_likeliest_N = chosen_N == largest_U.index_select(0, which_N)
        mass_UV = logits_UV.sub_(largest_U[:, None]).exp_()
        total_U = mass_UV.sum(dim=1)
        ctx.save_for_backward(mass_UV, total_U, places_N)
        ctx.mark_non_differentiable(is_likeliest_N)
        ctx.set_materialize_grads(False)
        return chosen_N, largest_U + total_U.log(), mean_U, is_likeliest_N

    @staticmethod
    def backward(
        ctx: Any,
        grad_chosen_N: Tensor | None,
        grad_normalizer_U: Tensor | None,
        grad_mean_U: Tensor | None,
        _: Tensor | None,
    ) -> tuple[Tensor, None, None]:
        grad_UV, total_U, places_N = ctx.saved_tensors
        scale_U = torch.zeros_like(total_U) if grad_normalizer_U is None else grad_normalizer_U
        grad_UV.mul_((scale_U / total_U)[:, None])
        if grad_mean_U is not None:
            grad_UV.add_((grad_mean_U / grad_UV.shape[1])[:, None])
        if grad_chosen_N is not None:
            # One dimension is added to in order, so that the sum is the same every time.
            grad_UV.view(-1).index_add_(0, places_N, grad_chosen_N)
        return grad_UV, None, None


@dataclass(frozen=True)
class ScoredTargets:
    """What is asked of the logits."""

    chosen_N: Tensor
    """The logit of each target."""
    normalizer_N: Tensor
    """``log(sum(exp(logits)))`` where it is predicted."""
    mean_N: Tensor
    """The mean logit there."""
    is_likeliest_N: Tensor
    """Whether no token has a larger logit."""


def score_targets(logits_UV: Tensor, which_N: Tensor, targets_N: Tensor) -> ScoredTargets:
    """Return what is asked of the logits; ``which_N`` says which position predicts a target.

    Overwrites ``logits_UV``; the gradient can be taken once.
    """
    chosen_N, normalizer_U, mean_U, is_likeliest_N = _ScoredTargets.apply(
        logits_UV, which_N, targets_N
    )
    return ScoredTargets(
        chosen_N,
        normalizer_U.index_select(0, which_N),
        mean_U.index_select(0, which_N),
        is_likeliest_N,
    )
