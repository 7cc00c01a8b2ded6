"""Half a cosine down to the floor (Loshchilov & Hutter 2017), without restarts."""

from __future__ import annotations

import math

from sintonia.runs.spec import ScheduleSettings


def factor(step: int, total_steps: int, settings: ScheduleSettings) -> float:
    """Return the part of the way from floor to peak."""
    done = (step - settings.warmup_steps) / (total_steps - settings.warmup_steps + 1)
    return (1 + math.cos(math.pi * done)) / 2
