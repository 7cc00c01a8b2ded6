"""From a run's directory to a run that can be trained: rows, model, checkpoint.

Invariant: nothing is learned, and nothing that a later attempt could miss is written, before all
of it was found to be what was planned and to fit this machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from sintonia import objectives, plugins
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, Samples, load_samples
from sintonia.errors import RefusedModel
from sintonia.objectives.base import Objective
from sintonia.runs.curve import read_curve
from sintonia.runs.layout import AttemptFolder, RunFolder
from sintonia.runs.spec import DataRef, TrainSpec
from sintonia.sealed import MANIFEST, hash_file, verify
from sintonia.training import precision
from sintonia.training.checkpoint import Checkpoints, Learner
from sintonia.training.distributed import World
from sintonia.training.estimate import largest_row_tokens, work_of
from sintonia.training.fitting import Fitting
from sintonia.training.loop import Run
from sintonia.training.measured import Measured
from sintonia.training.reference import Reference
from sintonia.training.reporter import Reporter, RowProgress
from sintonia.training.room import Room
from sintonia.training.row_losses import TRAINING, VALIDATION, RowLosses
from sintonia.training.start import begin, shares_prefixes, tell_kind
from sintonia.training.turn import Turn

SHARES_PREFIXES = "shares_prefixes"
"""What the first attempt found: sums of shared rows are rounded otherwise."""


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What an attempt works in."""

    folder: RunFolder
    attempt: AttemptFolder
    reporter: Reporter
    measured: Measured
    room: Room
    world: World
    should_stop: Callable[[], bool]
    """Asked after each step, and while answers are scored before the first."""

    def require_turn(self) -> None:
        """Raise ``AlreadyRunning`` unless this is the last attempt that spoke."""
        Turn(self.folder, self.attempt).require()


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is learned, and what it is measured with."""

    training: Samples
    validation: Samples | None

    def each(self, change: Callable[[Samples, str], Samples]) -> _Rows:
        """Return both with ``change``, which gets the name of each."""
        validation = self.validation
        return _Rows(
            change(self.training, "training"),
            change(validation, "validation") if validation is not None else None,
        )


def prepare(around: Surroundings, spec: TrainSpec) -> tuple[Run, Mapping[str, float]]:
    """Load model and data, see that they fit this machine, and restore the newest checkpoint.

    Returns the run and the metrics of its last step done.
    """
    fitting = Fitting(around.measured, around.reporter, around.world)
    fitting.check_weights(spec, precision.device())
    encoder = _Encoder(around, spec, _renderer(spec))
    rows = around.world.after_first("encoded", encoder.both)
    around.reporter.beat()
    objective: Objective = plugins.load(objectives, spec.objective).build(spec)
    largest_row = largest_row_tokens(objective, rows.training)
    spec = fitting.after_the_attempt_before(around.folder, around.attempt, spec, largest_row)
    learner, rows = _begin(around, spec, rows)
    work = work_of(spec, objective, rows.training, rows.validation, around.world.size)
    spec = fitting.before_the_first_step(spec, work, learner.policy, rows.training)
    around.reporter.settled(spec.precision, spec.micro_batch_tokens)
    rows = rows.each(_reference(around, spec, learner, objective).attach)
    return _restore(around, spec, objective, learner, rows)


def _renderer(spec: TrainSpec) -> Renderer:
    """Return the base's. Raises ``RefusedModel`` for a base that is not the planned one."""
    base = Path(spec.base.folder)
    verify(base)
    if hash_file(base / MANIFEST) != spec.base.sha256:
        raise RefusedModel(f"Base model {spec.base.name} changed since the job was planned.")
    renderer = Renderer.from_folder(base, learns_last_only=spec.sft.learns_last_only)
    if renderer.template_sha256 != spec.template_sha256:
        raise RefusedModel(f"The chat template of {spec.base.name} changed since planning.")
    return renderer


def _begin(around: Surroundings, spec: TrainSpec, rows: _Rows) -> tuple[Learner, _Rows]:
    """Return what learns, and the rows as it can learn them."""
    where, reporter = precision.device(), around.reporter
    if around.world.is_first:
        reporter.diary.begin(around.world.local_size)
    learner = begin(spec, where)
    reporter.beat()
    tell_kind(spec, learner.policy, reporter)
    can_share = shares_prefixes(spec, learner.policy, reporter)
    was_sharing = around.world.from_first(
        lambda: around.measured.fixed(SHARES_PREFIXES, lambda: can_share)
    )
    if not (can_share and was_sharing):
        rows = rows.each(lambda samples, _: samples.apart())
    return learner, rows


def _reference(
    around: Surroundings, spec: TrainSpec, learner: Learner, objective: Objective
) -> Reference:
    return Reference(
        around.folder,
        spec,
        learner.policy,
        objective,
        around.reporter,
        around.should_stop,
        around.require_turn,
        around.world,
    )


def _restore(
    around: Surroundings, spec: TrainSpec, objective: Objective, learner: Learner, rows: _Rows
) -> tuple[Run, Mapping[str, float]]:
    """Return the run where its newest checkpoint left it."""
    learner.row_losses[TRAINING] = RowLosses(rows.training.num_rows)
    if rows.validation is not None:
        learner.row_losses[VALIDATION] = RowLosses(rows.validation.num_rows)
    checkpoints = Checkpoints(around.folder, spec, around.room, around.require_turn, around.world)
    metrics = checkpoints.resume(learner, around.reporter)
    run = Run(
        spec=spec,
        objective=objective,
        learner=learner,
        training=rows.training,
        validation=rows.validation,
        checkpoints=checkpoints,
        reporter=around.reporter,
        should_stop=around.should_stop,
        require_turn=around.require_turn,
        curve=read_curve(around.folder, learner.progress.step),
        world=around.world,
    )
    return run, metrics


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """Encodes the run's files, with signs of life."""

    around: Surroundings
    spec: TrainSpec
    renderer: Renderer

    def both(self) -> _Rows:
        validation = self.spec.validation
        training = self._samples(self.spec.training, "training")
        return _Rows(training, self._samples(validation, "validation") if validation else None)

    def _samples(self, data: DataRef, what: str) -> Samples:
        spec, path, reporter = self.spec, self.around.folder.path, self.around.reporter
        cache = Path(spec.cache_folder) if spec.cache_folder else path / "cache"
        rules = EncodingRules(spec.context_tokens, spec.truncate)
        progress = RowProgress(reporter, f"Encoding {what} rows", data.num_examples)
        found = load_samples(path / data.path, data.sha256, self.renderer, rules, cache, progress)
        reporter.beat()
        return found
