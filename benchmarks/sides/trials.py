"""Which of TRL's settings is its best on these rows: each is tried for a few steps.

A setting runs alone in its process, taking turns with ours on the same batches, so that the
machine's noise and the rows of its batches weigh on both. One that fails, is killed for its
memory, is far slower than another, or has other losses is told as such and not counted.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sides import figures
from sides.process import Answer, SideEnded, started, take_turns
from sides.variants import Variant
from sides.work import Work

MAX_STEPS = 5
ENOUGH_SECONDS = 30.0
"""Of the timed steps of both sides; then a trial ends before it has made all of its steps."""
HOPELESS, PATIENCE_SECONDS = 2.0, 20.0
"""A step that takes longer than so many times the best setting's, and so long besides, is ended."""
NEAR = 1.25
"""Settings within this of the best ratio are tried again."""


@dataclass(frozen=True)
class Trial:
    """What a setting came to."""

    variant: Variant
    quotients: tuple[float, ...] = ()
    """To ours, of neighbouring steps."""
    seconds: float = math.inf
    peak_bytes: int = 0
    largest_difference: float = math.inf
    losses: tuple[float, ...] = ()
    tolerance: float = 1e-3
    """Of the difference."""
    failure: str = ""

    @property
    def ratio(self) -> float:
        """How many times as long as ours a step takes."""
        return statistics.median(self.quotients) if self.quotients else math.inf

    @property
    def is_valid(self) -> bool:
        """Tell whether it computed what was asked for."""
        return not self.failure and self.largest_difference <= self.tolerance

    @property
    def verdict(self) -> str:
        """What is to be said of it."""
        if self.failure:
            return self.failure
        return "valid" if self.is_valid else "not the same loss"

    def __str__(self) -> str:
        told = (
            f"{self.seconds:.2f} s a step, {self.ratio:.2f} x ours, "
            f"losses differ by {self.largest_difference:.0e}: "
        )
        return f"trl, {self.variant.name}: {told if self.losses else ''}{self.verdict}"

    def as_json(self) -> dict[str, Any]:
        """Return it without numbers that JSON lacks."""
        numbers = {
            "ratio": self.ratio,
            "seconds": self.seconds,
            "largest_difference": self.largest_difference,
            "tolerance": self.tolerance,
        }
        told = {name: one if math.isfinite(one) else None for name, one in numbers.items()}
        return asdict(self) | told | {"is_valid": self.is_valid, "verdict": self.verdict}


def work_of(work: Work, variant: Variant) -> Work:
    """Return the work as ``variant`` has it; where that regroups rows, for our side too."""
    if not variant.groups_by_length:
        return replace(work, variant=variant.name)
    size = len(work.batches[0])
    rows = sorted((row for batch in work.batches for row in batch), key=lambda row: row.longest)
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    random.Random(0).shuffle(batches)
    return replace(work, variant=variant.name, batches=batches)


def try_all(work: Work, variants: Iterable[Variant], folder: Path) -> list[Trial]:
    """Return a trial of each setting, the valid ones first and of these the best first.

    Those that are near the best are tried a second time: on a busy machine a few steps may
    name the wrong one.
    """
    trials: list[Trial] = []
    for variant in variants:
        trials.append(attempt(work, variant, folder, step_limit(trials)))
        print(trials[-1], flush=True)
    ranked = sorted(trials, key=by_ratio)
    near = [trial for trial in ranked if trial.is_valid and trial.ratio <= NEAR * ranked[0].ratio]
    for first in near if len(near) > 1 else []:
        second = attempt(work, first.variant, folder, step_limit(trials))
        print(f"again: {second}", flush=True)
        if second.is_valid:
            both = replace(second, quotients=first.quotients + second.quotients)
            ranked[ranked.index(first)] = both
    return sorted(ranked, key=by_ratio)


def by_ratio(trial: Trial) -> tuple[bool, float]:
    """Return what trials are sorted by."""
    return not trial.is_valid, trial.ratio


def step_limit(trials: Iterable[Trial]) -> float:
    """Return the seconds after which a step is not worth waiting for; 0 where none is known."""
    best = min((trial.seconds for trial in trials if trial.is_valid), default=math.inf)
    return HOPELESS * best + PATIENCE_SECONDS if math.isfinite(best) else 0.0


def attempt(work: Work, variant: Variant, folder: Path, limit_seconds: float) -> Trial:
    """Return what ``variant`` does in its first steps."""
    work = work_of(work, variant)
    work = replace(work, batches=work.batches[:MAX_STEPS])
    answers: dict[str, list[Answer]] = {"ours": [], "trl": []}
    try:
        with started(dict.fromkeys(answers, work), folder) as sides:
            began = time.perf_counter()
            for _, step in zip(work.batches, take_turns(sides, limit_seconds), strict=False):
                for name, answer in step.items():
                    answers[name].append(answer)
                if len(answers["trl"]) == 1:
                    began = time.perf_counter()
                elif time.perf_counter() - began > ENOUGH_SECONDS:
                    break
    except SideEnded as ended:
        return Trial(variant, failure=str(ended))
    told = figures.of_side(answers["trl"], len(work.batches[0]))
    return Trial(
        variant,
        tuple(figures.quotients(answers["trl"], answers["ours"])),
        told["seconds"],
        told["peak_bytes"],
        figures.largest_difference(answers["ours"], answers["trl"]),
        tuple(told["losses"]),
        work.largest_difference,
    )
