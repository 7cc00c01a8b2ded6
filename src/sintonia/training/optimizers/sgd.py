"""Stochastic gradient descent with momentum; its weight decay is added to the gradient."""

from __future__ import annotations

import torch

from sintonia.runs.spec import OptimizerSettings
from sintonia.training.optimizers._groups import Named, groups_of


def build(parameters: Named, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """Return torch's SGD."""
    assert settings.momentum is not None, "a plan gives SGD its values"
    sgd = torch.optim.SGD(
        groups_of(parameters, settings.weight_decay),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,
    )
    return [sgd]
