"""The curve of a run as its attempts recorded it: what each step measured, each step once.

The steps of a checkpoint are durable before the checkpoint is, so that a resumed run reads the
very curve that an uninterrupted one has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sintonia.runs.layout import AttemptFolder, RunFolder
from sintonia.runs.records import RecordKind, Tail


@dataclass(frozen=True, slots=True)
class StepPoint:
    """What one step measured."""

    step: int
    train_loss: float
    full_valid_loss: float | None = None
    """Over all validation rows, at epoch ends."""

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> StepPoint:
        """Return the point in a step's record."""
        return cls(metrics["step"], metrics["train_loss"], metrics.get("full_valid_loss"))


def read_curve(run: RunFolder, last_step: int) -> list[StepPoint]:
    """Return the points up to ``last_step``, in order; of a repeated step the latest."""
    points: dict[int, StepPoint] = {}
    attempts = sorted(
        (AttemptFolder(path) for path in run.path.glob("attempt-*")), key=lambda a: a.number
    )
    for attempt in attempts:
        records, _ = Tail(attempt.records).read()
        for record in records:
            if record.kind is RecordKind.STEP and record.data["step"] <= last_step:
                points[record.data["step"]] = StepPoint.of(record.data)
    return [points[step] for step in sorted(points)]
