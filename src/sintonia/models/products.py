"""The product of activations with a frozen weight, by the fastest kernel that this machine has.

torch gives float32 products to one library and lets another one, oneDNN, do the inference of
compiled graphs. On the sizes of a training step (some hundred tokens, weights that come from
memory) oneDNN is a fifth faster, forward and backward, with the weight as it lies: nothing is
packed or copied. Its result depends on the shapes alone, so a resumed run repeats it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_onednn = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None  # noqa: SLF001


def times_transposed(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``x W^T``: [T, O]. No gradient is recorded."""
    return _product(x_TI, weight_OI)


def times(grad_TO: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``g W``: [T, I]. No gradient is recorded."""
    return _product(grad_TO, weight_OI.t())


class _FrozenProduct(torch.autograd.Function):
    """``x W^T`` with a gradient to x alone."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.weight_OI = weight_OI
        return times_transposed(x_TI, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor, None]:
        return times(grad_TO, ctx.weight_OI), None


def quicken(model: nn.Module) -> None:
    """Let every frozen linear layer of ``model`` compute with these products, the head too."""
    for module in model.modules():
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.forward = partial(_frozen_linear, module)  # type: ignore[method-assign]


def _frozen_linear(module: nn.Linear, x: Tensor) -> Tensor:
    y_TO: Tensor = _FrozenProduct.apply(x.reshape(-1, x.shape[-1]), module.weight.detach())
    y = y_TO.view(*x.shape[:-1], -1)
    return y if module.bias is None else y + module.bias


def _product(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    if _onednn is None or not _suits(x_TI, weight_OI):
        return x_TI @ weight_OI.t()
    y_TO: Tensor = _onednn(x_TI, weight_OI, None, "none", [], "")
    return y_TO


def _suits(x_TI: Tensor, weight_OI: Tensor) -> bool:
    """Tell whether oneDNN has a kernel: of weights with gaps it takes a thousand times as long."""
    is_whole = weight_OI.is_contiguous() or weight_OI.t().is_contiguous()
    return is_whole and x_TI.dtype == weight_OI.dtype == torch.float32 and x_TI.device.type == "cpu"
