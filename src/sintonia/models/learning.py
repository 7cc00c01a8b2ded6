"""The state of a model while it learns, which differs from that in which it is measured.

Everything random in a step depends on the run's seed, the step and the process's rank alone, so
that a resumed run draws what an uninterrupted one would. The model's own dropouts stay off: only
what the settings ask for is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sintonia.errors import RefusedModel
from sintonia.models.lora import LoraLinear


@contextmanager
def learning(model: PreTrainedModel, seed: int, step: int, rank: int = 0) -> Iterator[None]:
    """Let adapters drop inputs and layers be recomputed, for one step's forwards and backwards.

    Each ``rank`` of several processes draws numbers of its own.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))
    switched = [module for module in model.modules() if _learns_otherwise(module)]
    for module in switched:
        module.training = True
    try:
        yield
    finally:
        for module in switched:
            module.training = False


def recompute_layers(model: PreTrainedModel) -> None:
    """Keep only what enters each layer and compute the rest again in the backward pass.

    Raises ``RefusedModel`` for a family that cannot.
    """
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError:
        raise RefusedModel(
            f"{type(model).__name__} has no gradient checkpointing. Leave it off."
        ) from None
    _forbid_dropout(model)


def _forbid_dropout(model: PreTrainedModel) -> None:
    """Some layers ask themselves whether they train before they drop: let them drop nothing."""
    layers = [m for m in model.modules() if not isinstance(m, LoraLinear)]
    for holder in (model.config.get_text_config(), *layers):
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float):
                setattr(holder, name, 0.0)


def _learns_otherwise(module: torch.nn.Module) -> bool:
    is_recomputed = bool(getattr(module, "gradient_checkpointing", False))
    is_layer = isinstance(module, GradientCheckpointingLayer | PreTrainedModel)
    return isinstance(module, LoraLinear) or (is_recomputed and is_layer)
