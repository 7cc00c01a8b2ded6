"""How an adapter begins: the two factors of its update before the first step.

Each begins as the base model itself. Kaiming and Gaussian do so because B is zero, the orthogonal
one because the rows of its factors are orthogonal. PiSSA and OLoRA begin with a part of the
weight itself; there the starting product is taken off again for as long as the adapter trains,
so that the base's own tensors, which others share, stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sintonia.errors import InvalidValue
from sintonia.runs.spec import LoraInit

_POWER_ITERATIONS = 16
"""Of the randomized decomposition; PiSSA's paper finds no difference to the exact one."""
_FROM_WEIGHTS = (LoraInit.PISSA, LoraInit.OLORA)
_EXACT_UP_TO = 256
"""Smaller weights are decomposed exactly."""


@dataclass(frozen=True)
class Factors:
    """``A`` [rank, in] and ``B`` [out, rank] of an update ``s B A``."""

    a: Tensor
    b: Tensor
    is_taken_off: bool = False
    """Whether ``s B A`` of the start is subtracted while the adapter trains."""


@dataclass(frozen=True)
class Layer:
    """What a start may look at."""

    weight_OI: Tensor
    """In float32, on the CPU."""
    rank: int
    scale: float


Draw = Callable[[Layer, torch.Generator], Factors]


def draw(init: LoraInit, layer: Layer, generator: torch.Generator) -> Factors:
    """Return the factors that ``init`` begins with; every random number is ``generator``'s."""
    return _STARTS[init](layer, generator)


def _kaiming(layer: Layer, generator: torch.Generator) -> Factors:
    """As PEFT draws it: Kaiming uniform with ``a = sqrt(5)``."""
    outputs, inputs = layer.weight_OI.shape
    bound = 1 / math.sqrt(inputs)
    a = nn.init.uniform_(torch.empty(layer.rank, inputs), -bound, bound, generator=generator)
    return Factors(a, torch.zeros(outputs, layer.rank))


def _gaussian(layer: Layer, generator: torch.Generator) -> Factors:
    """As PEFT draws it: a standard deviation of ``1 / rank``."""
    outputs, inputs = layer.weight_OI.shape
    a = torch.randn(layer.rank, inputs, generator=generator) / layer.rank
    return Factors(a, torch.zeros(outputs, layer.rank))


def _orthogonal(layer: Layer, generator: torch.Generator) -> Factors:
    """Draw A and B from the odd and the even rows of one orthogonal matrix: ``B A = 0``."""
    outputs, inputs = layer.weight_OI.shape
    half = layer.rank // 2
    q, _ = torch.linalg.qr(torch.randn(layer.rank, layer.rank, generator=generator))
    a = (torch.randn(inputs, half, generator=generator) @ q[0::2]).t() / 10
    b = (torch.randn(half, outputs, generator=generator).t() @ q[1::2]) / 10
    return Factors(a.contiguous(), b.contiguous())


def _pissa(layer: Layer, generator: torch.Generator) -> Factors:
    """The largest singular vectors, each factor with the root of the values."""
    u, values, v = _decompose(layer.weight_OI, layer.rank, generator)
    root = (values / layer.scale).sqrt()
    return Factors((v * root).t().contiguous(), (u * root).contiguous(), is_taken_off=True)


def _olora(layer: Layer, _generator: torch.Generator) -> Factors:
    """The first columns and rows of a QR decomposition."""
    q, r = torch.linalg.qr(layer.weight_OI)
    rank = layer.rank
    return Factors(r[:rank].contiguous(), q[:, :rank].contiguous(), is_taken_off=True)


def require_rank(init: LoraInit, rank: int, shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise ``InvalidValue`` where a weight of ``shapes`` has fewer directions than needed."""
    most = min(map(min, shapes), default=rank)
    if init in _FROM_WEIGHTS and rank > most:
        raise InvalidValue(
            f"LoRA rank {rank}: a start from the weight itself has at most {most} directions "
            "in this model's smallest layer. Lower the rank, or choose another `init`.",
            param="lora.rank",
        )


def _decompose(
    weight: Tensor, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``rank`` largest singular triples as (U, values, V)."""
    if min(weight.shape) <= _EXACT_UP_TO:
        u, values, vh = torch.linalg.svd(weight, full_matrices=False)
        return u[:, :rank], values[:rank], vh[:rank].t()
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # the function takes no generator
        torch.manual_seed(seed)
        u, values, v = torch.svd_lowrank(weight, q=2 * rank, niter=_POWER_ITERATIONS)
    return u[:, :rank], values[:rank], v[:, :rank]


_STARTS: dict[LoraInit, Draw] = {
    LoraInit.KAIMING: _kaiming,
    LoraInit.GAUSSIAN: _gaussian,
    LoraInit.ORTHOGONAL: _orthogonal,
    LoraInit.PISSA: _pissa,
    LoraInit.OLORA: _olora,
}
