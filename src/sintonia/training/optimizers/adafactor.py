"""Adafactor (Shazeer & Stern 2018): a row and a column of second moments instead of a matrix."""

from __future__ import annotations

import math

import torch

from sintonia.runs.spec import OptimizerSettings
from sintonia.training.optimizers._groups import Named, groups_of

_NOT_SCALED_BY_WEIGHTS = 1.0
"""The paper scales a step by the size of the weights, at least this. An adapter's B begins at
zero and would never move; at least 1 means the learning rate alone."""


def build(parameters: Named, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """Return torch's Adafactor with absolute steps, so that a rate means what AdamW's does.

    ``epsilon`` is the paper's first, least of squared gradients; torch squares its own.
    """
    assert settings.epsilon is not None, "a plan gives Adafactor its values"
    adafactor = torch.optim.Adafactor(
        groups_of(parameters, settings.weight_decay),
        lr=settings.learning_rate,
        eps=(math.sqrt(settings.epsilon), _NOT_SCALED_BY_WEIGHTS),
    )
    return [adafactor]
