"""Which numbers training computes with, and how fast the hardware is with them."""

from __future__ import annotations

import time

import torch

from sintonia.errors import TrainerFailed
from sintonia.runs.spec import Precision

_SIZES = (256, 512, 512)
_TRIALS = 3


def device() -> str:
    """Return where training runs: on a GPU if torch finds one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def claim_device(local_rank: int) -> None:
    """Let ``cuda`` mean this process's own GPU.

    Raises ``TrainerFailed`` when there is none left.
    """
    if not torch.cuda.is_available():
        return
    number = torch.cuda.device_count()
    if local_rank >= number:
        raise TrainerFailed(
            f"Process {local_rank + 1} of this machine has no GPU: there are {number}. "
            f"Start at most {number} processes on it."
        )
    torch.cuda.set_device(local_rank)


def usual_precision(where: str) -> Precision:
    """Return what ``auto`` means: bfloat16 on a GPU that computes with it, else float32.

    On a processor float32 stays the rule where bfloat16 is faster too: the curve would differ
    from machine to machine, and answers are computed in float32 there.
    """
    if where == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision.BFLOAT16
    return Precision.FLOAT32


def slowdown_of_bfloat16(where: str) -> float:
    """Return how many times longer a product in bfloat16 takes than one in float32.

    Of a GPU its makers tell; of a processor nothing does: some compute bfloat16 in software, a
    hundred times slower.
    """
    if where == "cuda":
        return 1.0 if torch.cuda.is_bf16_supported(including_emulation=False) else 2.0
    plain = _best_seconds(torch.float32, limit_seconds=float("inf"))
    return _best_seconds(torch.bfloat16, limit_seconds=plain) / plain


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
