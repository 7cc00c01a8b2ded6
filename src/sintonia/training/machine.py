"""What an attempt takes of the machine: threads, a GPU, and the numbers that it computes with.

Invariant: what the first attempt of a run chose, every later one uses. Sums depend on how threads
split them and on how numbers are rounded: an attempt that chose otherwise would not repeat an
uninterrupted run.
"""

from __future__ import annotations

import dataclasses

import torch

from sintonia.cores import num_cores
from sintonia.runs.spec import Origin, Precision, TrainSpec
from sintonia.training import precision
from sintonia.training.distributed import World
from sintonia.training.measured import Measured
from sintonia.training.reporter import Reporter

_TOLD_SLOWDOWN = 1.5
"""From so many times slower on, a chosen precision earns a warning."""


def fix_choices(spec: TrainSpec, measured: Measured, reporter: Reporter, world: World) -> TrainSpec:
    """Return ``spec`` with what the first attempt chose, choosing it if need be, and use it."""
    threads = world.from_first(
        lambda: measured.fixed("threads", lambda: spec.threads or num_cores())
    )
    _share_machine(threads, reporter, world)
    is_free = spec.origins.get("precision") is Origin.DEFAULT
    where = precision.device()
    found = world.from_first(
        lambda: measured.fixed(
            "precision", lambda: precision.usual_precision(where) if is_free else spec.precision
        )
    )
    if found == Precision.BFLOAT16 and world.is_first:
        _tell_bfloat16(reporter, where)
    return dataclasses.replace(spec, threads=threads, precision=Precision(found))


def _share_machine(threads: int, reporter: Reporter, world: World) -> None:
    """Take this process's part of the machine's threads, and its GPU.

    What is fixed is the number for the whole machine, so an attempt may have other processes.
    """
    own = max(1, threads // world.local_size)
    torch.set_num_threads(own)  # whatever OMP_NUM_THREADS says: torchrun sets it to 1
    if not world.is_alone:
        precision.claim_device(world.local_rank)
        reporter.event(
            f"{world.size} processes train together; threads of each: {torch.get_num_threads()}"
        )


def _tell_bfloat16(reporter: Reporter, where: str) -> None:
    reporter.event("Products are computed in bfloat16; what is trained and the loss stay float32")
    slowdown = precision.slowdown_of_bfloat16(where)
    if slowdown > _TOLD_SLOWDOWN:
        reporter.event(
            f"This machine computes bfloat16 {slowdown:.0f} times slower than float32. "
            "Leave `precision` out.",
            "warn",
        )
