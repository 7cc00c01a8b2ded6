"""A linear layer with a trained low-rank update (Hu et al. 2021).

``y = x (W + s B A)^T + b`` with ``s = alpha / rank``, for rsLoRA ``alpha / sqrt(rank)``. Fused
layers (``decoder``) compute it beside the weight. Here, in the modules of other families, on
float32 weights without dropout the update is added to the weight once for each optimizer step,
and one product goes forward and one back: fewer passes over the activations than a side branch.
On weights that are rounded, to 16 bits or to 4, the sum would lose the update, and dropout needs
the update's own input; there the side product ``s (x A^T) B^T`` is added to the layer's output.

An adapter whose start is a part of the weight (PiSSA, OLoRA) has the starting product taken off:
``W + s (B A - B0 A0)``. As a plain adapter it has twice the rank, ``[A; A0]`` and ``[B, -B0]``,
which is exact over the unchanged base and holds all that a resume needs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from sintonia.models import lora_starts
from sintonia.models.products import times, times_transposed
from sintonia.models.quantized import Nf4Linear
from sintonia.runs.spec import LoraSettings

LINEAR = (nn.Linear, Conv1D, Nf4Linear)
"""What an adapter can be put on."""


class _MergedProduct(torch.autograd.Function):
    """``x M^T`` where ``M = W + s B A``; gradients to x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, merged: Tensor, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x_TI, merged, a, b)
        ctx.scale = scale
        return times_transposed(x_TI, merged)

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, merged, a, b = ctx.saved_tensors
        grad_x = times(grad_TO, merged) if ctx.needs_input_grad[0] else None
        grad_a = ctx.scale * ((grad_TO @ b).t() @ x_TI)
        grad_b = ctx.scale * (grad_TO.t() @ (x_TI @ a.t()))
        return grad_x, None, grad_a, grad_b, None


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update.

    Dropout is on only while ``training``, which is false but in :mod:`sintonia.models.learning`.
    """

    def __init__(self, base: nn.Linear | Conv1D | Nf4Linear, lora: LoraSettings) -> None:
        super().__init__()
        self.base = base
        self.dropout = lora.dropout
        self.may_merge = True
        self.scale = scale_of(lora)
        self.init = lora.init
        weight = self._weight()
        outputs, inputs = weight.shape
        self.lora_a = nn.Parameter(weight.new_zeros(lora.rank, inputs, dtype=torch.float32))
        self.lora_b = nn.Parameter(weight.new_zeros(outputs, lora.rank, dtype=torch.float32))
        self.start_a: Tensor | None
        self.start_b: Tensor | None
        self.register_buffer("start_a", None, persistent=False)
        self.register_buffer("start_b", None, persistent=False)
        self._merged: Tensor | None = None
        self._merged_of = (-1, -1)
        self.training = False

    @property
    def is_merged(self) -> bool:
        """Whether one product with :meth:`merged` is the whole layer."""
        if self.dropout or not self.may_merge or isinstance(self.base, Nf4Linear):
            return False
        return bool(self.base.weight.dtype == torch.float32)

    @property
    def is_transposed(self) -> bool:
        """Whether the family keeps the weight as [in, out]."""
        base = self.base
        return base.is_transposed if isinstance(base, Nf4Linear) else isinstance(base, Conv1D)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Begin as the base alone, in the way that the settings say."""
        weight = self._weight().float().cpu()
        layer = lora_starts.Layer(weight, self.lora_a.shape[0], self.scale)
        begun = lora_starts.draw(self.init, layer, generator)
        self.lora_a.copy_(begun.a)
        self.lora_b.copy_(begun.b)
        self._take_off(begun.a, begun.b) if begun.is_taken_off else self._take_off(None, None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its update."""
        if not self.is_merged:
            y: Tensor = self.base(x)
            return y + self._side(x)
        rows_TI = x.reshape(-1, x.shape[-1])
        y_TO = _MergedProduct.apply(rows_TI, self.merged(), self.lora_a, self.lora_b, self.scale)
        y = y_TO.view(*x.shape[:-1], -1)
        return y if self.base.bias is None else y + self.base.bias

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Return ``W`` with the update, computed anew only after A or B changed."""
        if self._merged is None:
            self._merged = self._weight().new_empty(self._weight().shape)
        versions = (self.lora_a._version, self.lora_b._version)  # noqa: SLF001
        if versions != self._merged_of:
            a, b = self.factors()
            torch.addmm(self._weight(), b, a, alpha=self.scale, out=self._merged)
            self._merged_of = versions
        return self._merged

    def forget_merged(self) -> None:
        """Give the memory of :meth:`merged` back; the next call makes it anew."""
        self._merged, self._merged_of = None, (-1, -1)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A and B of the plain adapter over the base: of twice the rank after a start."""
        if self.start_a is None or self.start_b is None:
            return self.lora_a.detach(), self.lora_b.detach()
        a = torch.cat([self.lora_a.detach(), self.start_a])
        return a, torch.cat([self.lora_b.detach(), -self.start_b], dim=1)

    @torch.no_grad()
    def set_factors(self, a: Tensor, b: Tensor) -> None:
        """Put back what :meth:`factors` returned."""
        rank = self.lora_a.shape[0]
        self.lora_a.copy_(a[:rank])
        self.lora_b.copy_(b[:, :rank])
        if self.start_a is not None:
            self._take_off(a[rank:], -b[:, rank:])
        self._merged_of = (-1, -1)

    def _take_off(self, a: Tensor | None, b: Tensor | None) -> None:
        self.start_a = None if a is None else a.to(self.lora_a, copy=True)
        self.start_b = None if b is None else b.to(self.lora_b, copy=True)

    def _side(self, x: Tensor) -> Tensor:
        """Return ``s drop(x) A^T B^T``; a start is taken off in float32, or the rest is lost."""
        if self.start_a is None or self.start_b is None:
            return self.scale * self._through(self._dropped(x), self.lora_a, self.lora_b)
        wide = x.float()
        side = self._through(self._dropped(wide), self.lora_a, self.lora_b)
        side = side - self._through(wide, self.start_a, self.start_b)
        return (self.scale * side).to(x.dtype)

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, training=self.training)

    @staticmethod
    def _through(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, a.to(x.dtype)), b.to(x.dtype))

    def _weight(self) -> Tensor:
        """Return the frozen weight as [out, in]; GPT-2's Conv1D keeps it transposed."""
        if isinstance(self.base, Nf4Linear):
            return self.base.dequantized()
        weight = self.base.weight.detach()
        return weight.t() if isinstance(self.base, Conv1D) else weight


def scale_of(lora: LoraSettings) -> float:
    """Return ``s``."""
    return lora.alpha / (math.sqrt(lora.rank) if lora.use_rslora else lora.rank)
