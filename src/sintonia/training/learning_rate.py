"""The learning rate as a pure function of the step, so that nothing of it has to be saved."""

from __future__ import annotations

from sintonia import plugins
from sintonia.runs.spec import TrainSpec
from sintonia.training import schedules


def learning_rate_at(step: int, spec: TrainSpec) -> float:
    """Return the rate of ``step``, from 1: a linear warm-up, then what the schedule says.

    No step has rate zero: the first is ``1 / warmup_steps`` of the peak, the last one above 0.
    """
    peak, settings = spec.optimizer.learning_rate, spec.schedule
    if step <= settings.warmup_steps:
        return peak * step / settings.warmup_steps
    schedule = plugins.load(schedules, settings.name.value)
    part: float = schedule.factor(step, spec.total_steps, settings)
    return peak * (settings.floor + (1 - settings.floor) * part)
