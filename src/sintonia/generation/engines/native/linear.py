"""Matrix products of a served model: the base's weights once, any request's adapter on top.

Invariant: a row's result has the same bits whatever other rows are in the batch. The base's
weights are packed for oneDNN, whose kernels then compute each row alike for two rows or more (a
single row is doubled); plain products, the fallback where oneDNN is missing, do not promise it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

_PACKED_FOR_ROWS = 64


@dataclass(frozen=True)
class LowRank:
    """One module's adapter: ``x @ down @ up`` is added to its output; the scale is in ``up``."""

    down: Tensor
    up: Tensor

    @property
    def size_bytes(self) -> int:
        """What the two matrices take."""
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True)
class Adapter:
    """The low-rank matrices of one tuned model, by the path of the module they belong to."""

    modules: Mapping[str, LowRank]

    @property
    def size_bytes(self) -> int:
        """What all matrices take."""
        return sum(module.size_bytes for module in self.modules.values())


@dataclass(frozen=True)
class AdapterRows:
    """Rows of a batch that one adapter serves."""

    start: int
    stop: int
    adapter: Adapter
    single: bool
    """The rows are one token each of different sequences, else a chunk of one sequence."""


@dataclass
class AdapterSwitch:
    """Which rows of the batch under way belong to which adapter; one for each served base."""

    rows: Sequence[AdapterRows] = ()
    """In the decoder."""
    head_rows: Sequence[AdapterRows] = ()
    """In the output head, which sees only the rows whose logits are wanted."""


class ServedLinear(nn.Module):
    """A linear layer of a base, with the adapters of the batch under way added to it."""

    def __init__(
        self, path: str, weight_OI: Tensor, bias: Tensor | None, site: AdapterSite
    ) -> None:
        super().__init__()
        self.path = path
        self.shape = tuple(weight_OI.shape)
        self._product = _pack(weight_OI.detach(), bias.detach() if bias is not None else None)
        self._site = site
        self.is_head = site.is_head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the base's product plus each row's own adapter."""
        outputs = self._product(inputs)
        for rows in self._site.rows():
            low_rank = rows.adapter.modules.get(self.path)
            if low_rank is not None:
                _add_low_rank(inputs, outputs, rows, low_rank)
        return outputs


@dataclass(frozen=True)
class AdapterSite:
    """Where a layer finds the rows of the batch under way."""

    switch: AdapterSwitch
    is_head: bool = False

    def rows(self) -> Sequence[AdapterRows]:
        """Return the adapter rows that this layer sees."""
        return self.switch.head_rows if self.is_head else self.switch.rows


def serve_linears(
    model: nn.Module, head: nn.Module | None
) -> tuple[AdapterSwitch, dict[str, ServedLinear]]:
    """Replace every linear layer of ``model`` by a served one; ``head`` is its output head.

    Returns the switch they share and the layers by path.
    """
    switch = AdapterSwitch()
    found = [(p, m) for p, m in model.named_modules() if type(m) in (nn.Linear, Conv1D)]
    served: dict[str, ServedLinear] = {}
    for path, linear in found:
        weight = linear.weight.t() if isinstance(linear, Conv1D) else linear.weight
        site = AdapterSite(switch, is_head=linear is head)
        served[path] = ServedLinear(path, weight, linear.bias, site)
        model.set_submodule(path, served[path])
    return switch, served


@dataclass
class _PlainProduct:
    """The product as torch does it."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias)


@dataclass
class _PackedProduct:
    """The product with weights laid out for oneDNN's kernels.

    Measured on 2 cores, 1 / 8 / 64 rows of a 1536 x 576 weight: 0.055 / 0.095 / 0.53 ms, plain
    0.099 / 0.185 / 0.69 ms.
    """

    packed: Tensor
    bias: Tensor | None
    _attributes: list[float | None] = field(default_factory=list)

    def __call__(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        # One row alone takes another kernel, which sums in another order (seen for 576 x 1536).
        if len(rows) == 1:
            rows = rows.expand(2, -1)
        outputs = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - torch's own, in Inductor too
            rows.contiguous(), self.packed, self.bias, "none", self._attributes, ""
        )
        count = inputs.numel() // inputs.shape[-1]
        return outputs[:count].view(*inputs.shape[:-1], outputs.shape[-1])


def _pack(weight_OI: Tensor, bias: Tensor | None) -> _PlainProduct | _PackedProduct:
    """Return the product with the packed weight where this build and processor can do that."""
    if not torch.backends.mkldnn.is_available() or weight_OI.dtype != torch.float32:
        return _PlainProduct(weight_OI, bias)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001 - torch's own, in Inductor too
            weight_OI.contiguous(), _PACKED_FOR_ROWS
        )
    except (RuntimeError, NotImplementedError):
        return _PlainProduct(weight_OI, bias)
    return _PackedProduct(packed, bias)


def _add_low_rank(inputs: Tensor, outputs: Tensor, rows: AdapterRows, low_rank: LowRank) -> None:
    """Add ``x @ down @ up`` to the rows of ``outputs``.

    Single rows go through a batched product, which computes each by itself and so alike in any
    number; a chunk has the same size in any company.
    """
    chosen = inputs.reshape(-1, inputs.shape[-1])[rows.start : rows.stop]
    target = outputs.view(-1, outputs.shape[-1])[rows.start : rows.stop]
    if not rows.single:
        target += chosen @ low_rank.down @ low_rank.up
        return
    count = rows.stop - rows.start
    inner = torch.bmm(chosen[:, None], low_rank.down.expand(count, -1, -1))
    target += torch.bmm(inner, low_rank.up.expand(count, -1, -1))[:, 0]
