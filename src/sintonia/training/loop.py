"""The training loop. There is one; objectives say what a batch is and what its loss is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from torch import nn

from sintonia import failpoints
from sintonia.data.samples import Samples
from sintonia.errors import TrainerFailed
from sintonia.models.learning import learning
from sintonia.objectives.base import Objective
from sintonia.runs.curve import StepPoint
from sintonia.runs.spec import TrainSpec
from sintonia.training.checkpoint import Checkpoints, Learner
from sintonia.training.distributed import ALONE, World
from sintonia.training.evaluate import Evaluation, Measured, Totals
from sintonia.training.learning_rate import learning_rate_at
from sintonia.training.optimizer import clip
from sintonia.training.reporter import Reporter
from sintonia.training.row_losses import TRAINING, VALIDATION
from sintonia.training.row_order import RowOrder, validation_rows
from sintonia.training.stopping import Standing, standing
from sintonia.training.turn import always
from sintonia.training.verdict import VerdictKind, judge, not_a_number

WORTH_A_WORD_AT_ONCE = (VerdictKind.OVERFITTING, VerdictKind.DIVERGED)
"""What is told while the run goes on; the rest is told at its end."""


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
    """Asked after each step; true on any process ends the run, on all, with a snapshot."""
    require_turn: Callable[[], None] = always
    """Asked before anything that attempts share is written; raises when a later one works."""
    curve: list[StepPoint] = field(default_factory=list)
    """What each step so far measured, those of earlier attempts included."""
    world: World = ALONE
    """The processes that train together."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for p in self.learner.policy.model.parameters() if p.requires_grad]

    @property
    def standing(self) -> Standing | None:
        """Where the full validations stand; ``None`` without early stopping."""
        settings = self.spec.early_stopping
        return None if settings is None else standing(self.curve, settings)

    @property
    def is_over(self) -> bool:
        """Tell whether there is nothing more to learn, or patience has run out."""
        now = self.standing
        return self.learner.progress.step >= self.spec.total_steps or (
            now is not None and now.is_over
        )


def train(run: Run, metrics: dict[str, float]) -> tuple[Ending, dict[str, float]]:
    """Train from where the learner stands to the end, or to a stop.

    ``metrics`` are those of the last step done. Returns how it ended and the last metrics.
    Raises ``TrainerFailed`` when the loss is not a number, and ``AlreadyRunning`` when a later
    attempt has taken the run over.
    """
    order = RowOrder(run.training.num_rows, run.spec.batch_size, run.spec.seed)
    progress = run.learner.progress
    last_saved = time.monotonic()
    run.world.require_same_weights(progress.step, run.parameters)
    is_over = run.is_over
    while not is_over:
        progress.step += 1
        metrics = _do_step(run, order)
        failpoints.reach("step")
        is_late = time.monotonic() - last_saved >= run.spec.snapshot_seconds
        is_due, is_asked_to_stop = run.world.any_of(is_late, run.should_stop())
        is_last = progress.step >= run.spec.total_steps
        is_epoch_end = order.ends_epoch(progress.step) or is_last
        is_over = is_last or (is_epoch_end and run.is_over)
        stops = is_asked_to_stop and not is_over
        if is_epoch_end or stops or is_due:
            _save(run, metrics, is_epoch_end=is_epoch_end)
            last_saved = time.monotonic()
        if stops:
            return Ending.STOPPED, metrics
    return Ending.FINISHED, metrics


def _save(run: Run, metrics: dict[str, float], *, is_epoch_end: bool) -> None:
    """Save an epoch's checkpoint, or a snapshot; the steps told before it become durable first.

    All processes come here, and each holds all of it: the first one writes.
    """
    run.world.require_same_weights(run.learner.progress.step, run.parameters)
    if not run.world.is_first:
        return
    run.require_turn()
    run.reporter.sync()
    if not is_epoch_end:
        run.checkpoints.save_snapshot(run.learner, metrics)
        return
    now = run.standing
    folder = run.checkpoints.save_epoch(run.learner, metrics, now.best_step if now else None)
    run.reporter.checkpoint(folder, metrics)
    verdict = judge(run.curve)
    if verdict is not None and verdict.kind in WORTH_A_WORD_AT_ONCE:
        run.reporter.verdict(verdict)


def _do_step(run: Run, order: RowOrder) -> dict[str, float]:
    """Learn one batch, measure what is due, report; return the step's metrics."""
    step = run.learner.progress.step
    started = time.monotonic()
    rows = order.rows_of(step)
    learned = _learn(run, rows)
    tokens = int(run.training.row_tokens_R[rows].sum())
    run.learner.progress.trained_tokens += tokens
    seconds = time.monotonic() - started
    metrics = {
        **learned.named("train"),
        **_validate(run, step, is_epoch_end=order.ends_epoch(step)),
    }
    _check_finite(run, metrics.values(), has_learned=True)
    told = {
        "step": step,
        "total_steps": run.spec.total_steps,
        **metrics,
        "epoch": order.epoch_of(step),
        "learning_rate": learning_rate_at(step, run.spec),
        "trained_tokens": run.learner.progress.trained_tokens,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }
    run.reporter.step(told)
    run.curve.append(StepPoint.of(told))
    return metrics


def _learn(run: Run, rows: list[int]) -> Measured:
    """Make one optimizer step on ``rows``, in as many micro-batches as they need.

    Each process learns its shard, divided by the count of all of them; a process without one
    takes the same step.
    """
    spec, learner, world = run.spec, run.learner, run.world
    sequences = world.own(run.training.sequences_of(rows))
    forests = list(run.objective.batches(sequences, spec.micro_batch_tokens))
    count = world.sum(sum(run.objective.count(forest) for forest in forests))
    totals = Totals()
    with learning(learner.policy.model, spec.seed, learner.progress.step, world.rank):
        for forest in forests:
            output = run.objective.loss(learner.policy, forest)
            (output.total / count).backward()
            totals.add(forest, output)
            run.reporter.beat()
    learned = totals.of_all(world).means()
    world.sum_gradients(run.parameters)
    norm = clip(run.parameters, spec.optimizer.max_gradient_norm)
    _check_finite(run, (learned.loss, norm), has_learned=learner.progress.step > 1)
    learner.row_losses[TRAINING].see(learned.rows)
    learner.optimizer.step(learning_rate_at(learner.progress.step, spec))
    return learned


def _check_finite(run: Run, values: Iterable[float], *, has_learned: bool) -> None:
    if all(math.isfinite(value) for value in values):
        return
    step, multiplier = run.learner.progress.step, run.spec.learning_rate_multiplier
    verdict = not_a_number(step, multiplier, has_learned=has_learned)
    run.reporter.verdict(verdict)
    raise TrainerFailed(verdict.message)


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
        measured = _measure(run, samples, range(samples.num_rows))
        metrics |= measured.named("full_valid")
        run.learner.row_losses[VALIDATION].see(measured.rows)
    return metrics


def _measure(run: Run, samples: Samples, rows: Sequence[int]) -> Measured:
    evaluation = Evaluation(
        run.learner.policy,
        run.objective,
        max_tokens=run.spec.micro_batch_tokens,
        beat=run.reporter.beat,
        world=run.world,
    )
    return evaluation.over(samples, rows)
