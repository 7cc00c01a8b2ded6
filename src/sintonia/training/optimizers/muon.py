"""Muon (Jordan et al. 2024): momentum made orthogonal, for matrices inside the model.

Embeddings, heads, norms and biases go to AdamW. Steps are scaled to the size of AdamW's (Liu et
al. 2025), so that one learning rate serves both.
"""

from __future__ import annotations

import re

import torch

from sintonia.runs.spec import OptimizerSettings
from sintonia.training.optimizers import adamw
from sintonia.training.optimizers._groups import Named

_NOT_INSIDE = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|lm_head|score)\.")


def build(parameters: Named, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """Return torch's Muon, and its AdamW for the rest where there is one."""
    assert settings.momentum is not None, "a plan gives Muon its values"
    inside = [(name, p) for name, p in parameters if p.ndim == 2 and not _NOT_INSIDE.search(name)]
    names = {name for name, _ in inside}
    rest = [(name, p) for name, p in parameters if name not in names]
    built: list[torch.optim.Optimizer] = adamw.build(rest, settings) if rest else []
    if inside:
        muon = torch.optim.Muon(
            inside,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        built.append(muon)
    return built
