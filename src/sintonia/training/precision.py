"""Which numbers the hardware multiplies faster, found by trying."""

from __future__ import annotations

import time

import torch

from sintonia.runs.spec import Precision

_CLEARLY = 2.0
"""So much faster bfloat16 has to be on a processor: adapters cost it a product more."""
_SIZES = (256, 512, 512)
_TRIALS = 3


def device() -> str:
    """Return where training runs: on a GPU if torch finds one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def faster_precision(where: str) -> Precision:
    """Return bfloat16 where a product of it is clearly faster than one of float32.

    Of a GPU its makers tell; of a processor nothing does: some compute bfloat16 in software, a
    hundred times slower.
    """
    if where == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision.BFLOAT16 if is_native else Precision.FLOAT32
    plain = _best_seconds(torch.float32, limit_seconds=float("inf"))
    rounded = _best_seconds(torch.bfloat16, limit_seconds=plain)
    return Precision.BFLOAT16 if rounded * _CLEARLY < plain else Precision.FLOAT32


def _best_seconds(dtype: torch.dtype, limit_seconds: float) -> float:
    """Return the fastest of some products; one slower than ``limit_seconds`` is the last."""
    rows, inputs, outputs = _SIZES
    x = torch.ones(rows, inputs).to(dtype)
    weight = torch.ones(outputs, inputs).to(dtype)
    best = float("inf")
    for number in range(1 + _TRIALS):  # the first one makes what the others use
        started = time.perf_counter()
        x @ weight.t()
        seconds = time.perf_counter() - started
        if number:
            best = min(best, seconds)
        elif seconds > 20 * limit_seconds:
            return seconds
    return best
