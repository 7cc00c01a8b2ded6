"""AdamW and the learning rate's schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sintonia.runs.spec import OptimizerSettings


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) over ``parameters``."""
    return torch.optim.AdamW(
        list(parameters),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def learning_rate_at(step: int, total_steps: int, settings: OptimizerSettings) -> float:
    """Return the rate of ``step`` (from 1): linear warm-up, then linear decay towards zero.

    No step has rate zero: the first is ``1 / warmup_steps`` of the peak, the last one above 0.
    """
    warmup = settings.warmup_steps
    if step <= warmup:
        return settings.learning_rate * step / warmup
    return settings.learning_rate * (total_steps - step + 1) / (total_steps - warmup + 1)


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to ``max_norm`` (0 leaves them); return the norm before."""
    norm = nn.utils.clip_grad_norm_(list(parameters), max_norm or float("inf"))
    return float(norm)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors: ``NUMBER.NAME``."""
    return {
        f"{number}.{name}": value
        for number, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`state_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
