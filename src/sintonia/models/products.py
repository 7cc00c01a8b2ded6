"""The product of activations with a frozen weight, by the fastest kernel that this machine has.

torch gives float32 products to one library and lets another one, oneDNN, do the inference of
compiled graphs. On the sizes of a training step (some hundred tokens, weights that come from
memory) oneDNN is a fifth faster, forward and backward, with the weight as it lies: nothing is
packed or copied. Its result depends on the shapes alone, so a resumed run repeats it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_onednn = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None  # noqa: SLF001


def times_transposed(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``x W^T``: [T, O]. No gradient is recorded."""
    return _product(x_TI, weight_OI)


def times(grad_TO: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``g W``: [T, I]. No gradient is recorded."""
    return _product(grad_TO, weight_OI.t())


def _product(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    if _onednn is None or not _suits(x_TI, weight_OI):
        return x_TI @ weight_OI.t()
    y_TO: Tensor = _onednn(x_TI, weight_OI, None, "none", [], "")
    return y_TO


def _suits(x_TI: Tensor, weight_OI: Tensor) -> bool:
    """Tell whether oneDNN has a kernel: of weights with gaps it takes a thousand times as long."""
    is_whole = weight_OI.is_contiguous() or weight_OI.t().is_contiguous()
    return is_whole and x_TI.dtype == weight_OI.dtype == torch.float32 and x_TI.device.type == "cpu"
