"""Layers that torch compiles, where a compiler is.

Each layer's norms, rotations, activations and products become few kernels; attention stays the
forest's own function, between them. All layers are the same code, so what is compiled for one
serves the others, and sizes stay open, so that no forest is compiled for.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sintonia.errors import InvalidValue
from sintonia.models import attention
from sintonia.models.lora import LoraLinear

_VARIANTS = 64
"""With and without a gradient, a window, dropout, input that learns; torch's own limit is 8, and
what goes beyond it is computed without being compiled."""


def check_compiler(kind: str) -> None:
    """Raise ``InvalidValue`` unless torch can compile for devices of this ``kind``."""

    def probe(x: Tensor) -> Tensor:
        return torch.sin(x) + 1

    try:
        torch.compile(probe)(torch.ones(16, device=kind))
    except (RuntimeError, ImportError, OSError) as problem:
        told = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"
        needed = "a C++ compiler" if kind == "cpu" else "Triton and a C compiler"
        raise InvalidValue(
            f"Setting compile: torch cannot compile here ({told}). Install {needed} where "
            "training runs, or leave the setting out.",
            param="sintonia.compile",
        ) from None


def compile_layers(model: PreTrainedModel) -> None:
    """Let the layers of ``model``, adapters attached, be compiled as they are met.

    Raises ``InvalidValue`` for a family whose layers are not told apart.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise InvalidValue(
            f"Setting compile: {type(model).__name__} does not tell its layers apart. "
            "Leave the setting out.",
            param="sintonia.compile",
        )
    attention.keep_out_of_graphs()
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.may_merge = False  # what is merged is known outside of the graph only
    for layer in layers:
        layer.compile(dynamic=True, recompile_limit=_VARIANTS)
