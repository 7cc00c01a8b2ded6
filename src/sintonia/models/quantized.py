"""Frozen linear layers in four bits: NF4 with quantised scales (QLoRA, Dettmers et al. 2023).

Each product dequantises the weight; what it reads and writes stays as wide as it was. The package
that does it is optional.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sintonia.errors import InvalidValue

BLOCK = 64
"""Weights that have one scale. Layers whose inputs do not fill blocks stay as they are: on a
processor the package mixes up the scales of such rows."""
BYTES_PER_WEIGHT = 0.5 + (1 + 4 / 256) / BLOCK
"""Half a byte, and for each block a scale of one byte, for each 256 of these one of four."""
_PACKAGE = "bitsandbytes"


class Nf4Linear(nn.Module):
    """``x W^T + b`` with W [out, in] in four bits."""

    packed: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear | Conv1D, device: torch.device) -> None:
        """Quantise ``linear`` on ``device``; GPT-2's Conv1D keeps its weight transposed."""
        from bitsandbytes.functional import quantize_4bit

        super().__init__()
        self.is_transposed = isinstance(linear, Conv1D)
        weight = linear.weight.detach().to(device)
        weight_OI = (weight.t() if self.is_transposed else weight).contiguous()
        packed, self._state = quantize_4bit(
            weight_OI, blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        self.register_buffer("packed", packed, persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().to(device)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        from bitsandbytes import matmul_4bit

        y: Tensor = matmul_4bit(x, self.packed, self._state, bias=self.bias)
        return y

    def dequantized(self) -> Tensor:
        """Return W as products see it."""
        from bitsandbytes.functional import dequantize_4bit

        weight_OI: Tensor = dequantize_4bit(self.packed, self._state)
        return weight_OI


def check_installed() -> None:
    """Raise ``InvalidValue`` where the package is missing."""
    if find_spec(_PACKAGE) is None:
        raise InvalidValue(
            f"Setting quantization nf4: the trainer's environment lacks {_PACKAGE}. Install it "
            "with `pip install 'sintonia[quantized]'`, or leave the setting out.",
            param="sintonia.quantization",
        )


@torch.no_grad()
def quantize(model: nn.Module, names: Collection[str], device: torch.device) -> None:
    """Put the linear layers that have one of ``names`` on ``device`` in four bits, one by one.

    So the device never holds them as wide as they are stored. Raises ``InvalidValue`` where none
    of them can be.
    """
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name in names and isinstance(module, nn.Linear | Conv1D) and _fills_blocks(module):
            setattr(model.get_submodule(parent), name, Nf4Linear(module, device))
    if names and not count_layers(model, names)[0]:
        raise InvalidValue(
            f"Setting quantization nf4: no linear layer of this model has inputs that fill blocks "
            f"of {BLOCK}, so nothing would be kept in four bits. Leave the setting out.",
            param="sintonia.quantization",
        )


def count_layers(model: nn.Module, names: Collection[str]) -> tuple[int, int]:
    """Return how many of the layers that have one of ``names`` are in four bits, and of how many.

    Adapters may be over them.
    """
    named = [m for path, m in model.named_modules() if path.rpartition(".")[2] in names]
    narrow = [m for m in named if any(isinstance(part, Nf4Linear) for part in m.modules())]
    return len(narrow), len(named)


def _fills_blocks(linear: nn.Linear | Conv1D) -> bool:
    num_inputs: int = linear.weight.shape[0 if isinstance(linear, Conv1D) else 1]
    return num_inputs % BLOCK == 0
