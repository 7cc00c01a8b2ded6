"""What the answers of the sides come to: medians, quotients of neighbouring steps, differences.

The first step of each side is a warm-up: it counts for losses, not for times.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from sides.process import Answer

PEAK_SIZE, GPU_SIZE = 2048, 8192
Answers = dict[str, list[Answer]]


def product_peak(threads: int, device: str = "cpu") -> float:
    """Return the best of 8 products of squares, in FLOP per second.

    On a processor float32 and 2048 x 2048, on a GPU bfloat16 and 8192 x 8192.
    """
    torch.set_num_threads(threads)
    size, dtype = (PEAK_SIZE, torch.float32) if device == "cpu" else (GPU_SIZE, torch.bfloat16)
    square = torch.randn(size, size, device=device).to(dtype)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        square @ square
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def of_side(answers: Sequence[Answer], rows: int) -> dict[str, Any]:
    """Return the figures of one side whose steps had ``rows`` rows each."""
    timed = answers[1:]
    return {
        "seconds": statistics.median(answer.seconds for answer in timed),
        "rows": rows,
        "tokens": statistics.median(answer.tokens for answer in timed),
        "losses": [answer.loss for answer in answers],
        "step_seconds": [answer.seconds for answer in answers],
        "peak_bytes": max(answer.peak_bytes for answer in answers),
        "busy_while_waiting": waiting_share(answers),
    }


def waiting_share(answers: Sequence[Answer]) -> float:
    """Return the processor time that the side's waits took, as a share of their length."""
    waited = sum(answer.waited_seconds for answer in answers)
    return sum(answer.waiting_cpu_seconds for answer in answers) / waited


def quotients(slow: Sequence[Answer], fast: Sequence[Answer]) -> list[float]:
    """Return how many times as long each timed step took, of two made back to back."""
    pairs = zip(slow[1:], fast[1:], strict=True)
    return [one.seconds / other.seconds for one, other in pairs]


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the first and the third quartile."""
    if len(values) == 1:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def largest_difference(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Return the largest relative difference of two losses of one step."""
    differences = [
        abs(one.loss - other.loss) / abs(other.loss)
        for one, other in zip(answers, others, strict=True)
    ]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def useful_share(answers: Sequence[Answer], weights: int, peak: float) -> float:
    """Return 4 FLOP for each adapted weight and computed token, as a share of ``peak``."""
    rates = [4 * weights * answer.tokens / answer.seconds for answer in answers[1:]]
    return statistics.median(rates) / peak


def comparison(answers: Answers, rows: int) -> dict[str, Any]:
    """Return ratios, parts and the figures of each side; all but ours are peers or parts of it."""
    figures = {name: of_side(told, rows) for name, told in answers.items()}
    ours = answers["ours"]
    ratios = {name: quotients(told, ours) for name, told in answers.items() if name == "trl"}
    found: dict[str, Any] = {
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_quartiles": {name: quartiles(values) for name, values in ratios.items()},
        "memory_ratios": {
            name: figures[name]["peak_bytes"] / figures["ours"]["peak_bytes"] for name in ratios
        },
        "differences": {
            name: largest_difference(ours, told) for name, told in answers.items() if name != "ours"
        },
        "ours": figures["ours"],
        "peers": {name: figures[name] for name in ratios},
    }
    unshared = answers.get("ours_unshared")
    if unshared:
        found["ours_unshared"] = figures["ours_unshared"]
        found["parts"] = {"sharing": statistics.median(quotients(unshared, ours))}
        if "trl" in answers:
            found["parts"]["rest"] = statistics.median(quotients(answers["trl"], unshared))
    return found
