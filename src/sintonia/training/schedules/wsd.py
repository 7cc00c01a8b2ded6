"""Warm-up, stable, decay (Hu et al. 2024): the peak, then a straight line down to the floor."""

from __future__ import annotations

from sintonia.runs.spec import ScheduleSettings


def factor(step: int, total_steps: int, settings: ScheduleSettings) -> float:
    """Return the part of the way from floor to peak."""
    return min(1.0, (total_steps - step + 1) / (settings.decay_steps + 1))
