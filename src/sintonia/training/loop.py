"""The training loop. There is one; objectives say what a batch is and what its loss is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from sintonia import failpoints
from sintonia.data.samples import Samples
from sintonia.errors import TrainerFailed
from sintonia.objectives.base import Objective
from sintonia.runs.spec import TrainSpec
from sintonia.training.checkpoint import Checkpoints, Learner
from sintonia.training.evaluate import Measured, Totals, evaluate
from sintonia.training.learning_rate import learning_rate_at
from sintonia.training.optimizer import clip
from sintonia.training.reporter import Reporter
from sintonia.training.schedule import Schedule, validation_rows


class Ending(StrEnum):
    """Why the loop returned."""

    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Run:
    """Everything that the loop works with."""

    spec: TrainSpec
    objective: Objective
    learner: Learner
    training: Samples
    validation: Samples | None
    checkpoints: Checkpoints
    reporter: Reporter
    should_stop: Callable[[], bool]
    """Asked after each step; true ends the run with a snapshot."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for p in self.learner.policy.model.parameters() if p.requires_grad]


def train(run: Run, metrics: dict[str, float]) -> tuple[Ending, dict[str, float]]:
    """Train from where the learner stands to the end, or to a stop.

    ``metrics`` are those of the last step done. Returns how it ended and the last metrics.
    Raises ``TrainerFailed`` when the loss is not a number.
    """
    schedule = Schedule(run.training.num_rows, run.spec.batch_size, run.spec.seed)
    progress = run.learner.progress
    last_saved = time.monotonic()
    while progress.step < run.spec.total_steps:
        progress.step += 1
        metrics = _do_step(run, schedule)
        failpoints.reach("step")
        stops = run.should_stop() and progress.step < run.spec.total_steps
        is_due = time.monotonic() - last_saved >= run.spec.snapshot_seconds
        is_epoch_end = schedule.ends_epoch(progress.step)
        if is_epoch_end or stops or is_due:
            _save(run, metrics, is_epoch_end=is_epoch_end)
            last_saved = time.monotonic()
        if stops:
            return Ending.STOPPED, metrics
    return Ending.FINISHED, metrics


def _save(run: Run, metrics: dict[str, float], *, is_epoch_end: bool) -> None:
    """Save an epoch's checkpoint, or a snapshot; the steps told before it become durable first."""
    run.reporter.sync()
    if not is_epoch_end:
        run.checkpoints.save_snapshot(run.learner, metrics)
        return
    folder = run.checkpoints.save_epoch(run.learner, metrics)
    run.reporter.checkpoint(run.learner.progress.step, f"checkpoints/{folder.name}", metrics)


def _do_step(run: Run, schedule: Schedule) -> dict[str, float]:
    """Learn one batch, measure what is due, report; return the step's metrics."""
    step = run.learner.progress.step
    started = time.monotonic()
    rows = schedule.rows_of(step)
    learned = _learn(run, rows)
    tokens = int(run.training.row_tokens_R[rows].sum())
    run.learner.progress.trained_tokens += tokens
    seconds = time.monotonic() - started
    metrics = {
        **learned.named("train"),
        **_validate(run, step, is_epoch_end=schedule.ends_epoch(step)),
    }
    _check_finite(step, metrics.values())
    run.reporter.step(
        {
            "step": step,
            "total_steps": run.spec.total_steps,
            **metrics,
            "epoch": schedule.epoch_of(step),
            "learning_rate": learning_rate_at(step, run.spec),
            "trained_tokens": run.learner.progress.trained_tokens,
            "tokens_per_second": tokens / max(seconds, 1e-9),
        }
    )
    return metrics


def _learn(run: Run, rows: list[int]) -> Measured:
    """Make one optimizer step on ``rows``, in as many micro-batches as they need."""
    spec, learner = run.spec, run.learner
    sequences = run.training.sequences_of(rows)
    forests = list(run.objective.batches(sequences, spec.micro_batch_tokens))
    count = sum(run.objective.count(forest) for forest in forests)
    totals = Totals()
    for forest in forests:
        output = run.objective.loss(learner.policy, forest)
        (output.total / count).backward()
        totals.add(float(output.total.detach()), output.count, output.sums.items())
        run.reporter.beat()
    learned = totals.means()
    norm = clip(run.parameters, spec.optimizer.max_gradient_norm)
    _check_finite(learner.progress.step, (learned.loss, norm))
    learner.optimizer.step(learning_rate_at(learner.progress.step, spec))
    return learned


def _check_finite(step: int, values: Iterable[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise TrainerFailed(
            f"The loss is not a number at step {step}: training diverged. "
            "Lower learning_rate_multiplier."
        )


def _validate(run: Run, step: int, *, is_epoch_end: bool) -> dict[str, float]:
    """Measure a batch of validation rows when due, and all of them at an epoch's end."""
    spec, samples = run.spec, run.validation
    if samples is None:
        return {}
    metrics: dict[str, float] = {}
    if spec.validate_every_steps and (step % spec.validate_every_steps == 0 or is_epoch_end):
        rows = validation_rows(step, samples.num_rows, spec.batch_size, spec.seed)
        metrics |= _measure(run, samples, rows).named("valid")
    if is_epoch_end:
        metrics |= _measure(run, samples, list(range(samples.num_rows))).named("full_valid")
    return metrics


def _measure(run: Run, samples: Samples, rows: list[int]) -> Measured:
    return evaluate(
        run.learner.policy,
        run.objective,
        samples,
        rows,
        max_tokens=run.spec.micro_batch_tokens,
        beat=run.reporter.beat,
    )
