"""A straight line down to the floor, which the step after the last would reach."""

from __future__ import annotations

from sintonia.runs.spec import ScheduleSettings


def factor(step: int, total_steps: int, settings: ScheduleSettings) -> float:
    """Return the part of the way from floor to peak."""
    return (total_steps - step + 1) / (total_steps - settings.warmup_steps + 1)
