"""Lion (Chen et al. 2023): the sign of a momentum, so one moment instead of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sintonia.runs.spec import OptimizerSettings
from sintonia.training.optimizers._groups import Named, groups_of


def build(parameters: Named, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """Return Lion."""
    return [Lion(parameters, settings)]


class Lion(torch.optim.Optimizer):
    """The update of the paper's Algorithm 2."""

    def __init__(self, parameters: Named, settings: OptimizerSettings) -> None:
        groups = groups_of(parameters, settings.weight_decay)
        super().__init__(groups, {"lr": settings.learning_rate})
        assert settings.beta1 is not None, "a plan gives Lion its values"
        assert settings.beta2 is not None
        self._betas = settings.beta1, settings.beta2

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move each parameter by the learning rate, up or down."""
        assert closure is None, "the loss is not computed again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = self._betas
        state, gradient = self.state[parameter], parameter.grad
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        update = momentum.lerp(gradient, 1 - beta1).sign_()
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
        momentum.lerp_(gradient, 1 - beta2)
