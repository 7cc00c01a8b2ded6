"""The optimizer of a run as the loop and the checkpoints see it, whichever it is.

Invariant: it holds nothing but tensors by name; the learning rate comes anew with each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from sintonia import plugins
from sintonia.runs.spec import OptimizerSettings
from sintonia.training import optimizers


class Optimizer:
    """One or more of torch's optimizers, each over parameters of its own."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = tuple(parts)

    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, then drop the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad(set_to_none=True)
            # Fused kernels forget to count what they change; merged weights go by the count.
            increment_version([p for group in part.param_groups for p in group["params"]])

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors: ``PARAMETER.SLOT``."""
        found = {}
        for part in self._parts:
            states = part.state_dict()["state"]
            for number, name in _names(part).items():
                for slot, value in states.get(number, {}).items():
                    if value is not None:
                        found[f"{name}.{slot}"] = value
        return found

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state_tensors` returned."""
        slots: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, slot = key.rpartition(".")
            slots.setdefault(name, {})[slot] = value
        for part in self._parts:
            state = {n: slots[name] for n, name in _names(part).items() if name in slots}
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": state, "param_groups": groups})


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> Optimizer:
    """Return the optimizer of ``settings`` over named parameters."""
    member = plugins.load(optimizers, settings.name.value)
    return Optimizer(member.build(list(parameters), settings))


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to ``max_norm`` (0 leaves them); return the norm before."""
    norm = nn.utils.clip_grad_norm_(list(parameters), max_norm or float("inf"))
    return float(norm)


def _names(part: torch.optim.Optimizer) -> dict[int, str]:
    """Return the name of each parameter by its number in the state dictionary."""
    groups = part.state_dict()["param_groups"]
    return {
        number: name
        for group in groups
        for number, name in zip(group["params"], group["param_names"], strict=True)
    }
