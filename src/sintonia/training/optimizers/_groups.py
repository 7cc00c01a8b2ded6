"""Which parameters decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names in the model, under which their state is kept."""


def groups_of(parameters: Named, weight_decay: float) -> list[dict[str, Any]]:
    """Return torch's parameter groups: matrices decay, norms and biases do not."""
    matrices = [(name, p) for name, p in parameters if p.ndim > 1]
    others = [(name, p) for name, p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
