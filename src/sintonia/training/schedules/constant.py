"""The peak from the warm-up to the end."""

from __future__ import annotations

from sintonia.runs.spec import ScheduleSettings


def factor(_step: int, _total_steps: int, _settings: ScheduleSettings) -> float:
    """Return 1."""
    return 1.0
