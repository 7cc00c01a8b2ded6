"""The trainer's command: ``python -m sintonia.training.run RUN_DIR [--attempt N]``.

It needs nothing but the run's directory and the base model's folder: no server, no database.
Whatever happens short of a kill, it leaves an exit record that says how it ended. Launched by
torchrun, several processes make the attempt together; the first of them writes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from sintonia import failpoints, objectives, plugins, settings
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, Samples, load_samples
from sintonia.errors import (
    AlreadyRunning,
    InsufficientStorage,
    InvalidValue,
    RefusedModel,
    SintoniaError,
)
from sintonia.runs.curve import read_curve
from sintonia.runs.layout import AttemptFolder, RunFolder
from sintonia.runs.records import OUT_OF_MEMORY, ExitRecord, ExitStatus, reserve_exit, write_exit
from sintonia.runs.spec import DataRef, Origin, Precision, TrainSpec, read_spec
from sintonia.sealed import MANIFEST, hash_file, verify
from sintonia.training import memory, precision
from sintonia.training.checkpoint import Checkpoints
from sintonia.training.distributed import ALONE, OtherFailed, ProcessLost, World, joined
from sintonia.training.estimate import work_of
from sintonia.training.fitting import Fitting
from sintonia.training.loop import Ending, Run, train
from sintonia.training.measured import Measured
from sintonia.training.reference import Interrupted, Reference
from sintonia.training.reporter import Reporter, RowProgress
from sintonia.training.result import conclude
from sintonia.training.room import Room, disk_full, is_disk_full
from sintonia.training.row_losses import TRAINING, VALIDATION, RowLosses
from sintonia.training.start import begin, shares_prefixes, tell_kind

_TOLD_SLOWDOWN = 1.5
"""From so many times slower on, a chosen precision earns a warning."""


class StopRequest:
    """Becomes true at SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.is_set = False

    def install(self) -> None:
        """Listen for the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True


def run_attempt(
    folder: RunFolder,
    attempt: AttemptFolder,
    stop: StopRequest,
    *,
    min_free_bytes: int,
    world: World = ALONE,
) -> ExitRecord:
    """Run or resume the training of ``folder`` and write how it ended.

    Raises ``AlreadyRunning`` when another trainer holds the run, and ``InvalidValue`` for an
    attempt that was made before: what those wrote stands. Raises ``ProcessLost`` when one of
    several processes vanished: nothing is written then, as if the only one had.
    """
    room = Room(folder.path, min_free_bytes)
    if not world.is_first:
        record = _ended(folder, attempt, stop, room, world)
        world.leave(_problem(record))
        return record
    attempt.path.mkdir(exist_ok=True)
    with _locked(folder):
        if attempt.records.exists():
            raise InvalidValue(
                f"Attempt {attempt.number} of {folder.path.name}: it was made before. "
                "Leave --attempt out to make the next one.",
                param="attempt",
            )
        record = _ended(folder, attempt, stop, room, world)
        write_exit(attempt, record)
        world.leave(_problem(record))
    return record


def _ended(
    folder: RunFolder, attempt: AttemptFolder, stop: StopRequest, room: Room, world: World
) -> ExitRecord:
    """Make the attempt; return how it ended, whatever happened."""
    try:
        if world.is_first:
            reserve_exit(attempt)
        return _train(folder, attempt, stop, room, world)
    except ProcessLost:
        raise
    except OtherFailed as problem:  # the process that failed has printed more
        return ExitRecord(ExitStatus.FAILED, **problem.told)
    # The one broad handler of the trainer: whatever it is, the run's directory says so.
    except Exception as problem:  # noqa: BLE001
        with contextlib.suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return _failure(problem)


def _train(
    folder: RunFolder, attempt: AttemptFolder, stop: StopRequest, room: Room, world: World
) -> ExitRecord:
    spec = read_spec(folder.spec)
    reporter = Reporter(attempt, is_silent=not world.is_first)
    try:
        if world.is_first:
            room.require()
        surroundings = _Surroundings(folder, attempt, reporter, Measured(folder), room, world)
        spec = _fix_choices(surroundings, spec)
        run, metrics = _prepare(surroundings, spec, stop)
        ending, last = train(run, dict(metrics))
        if ending is Ending.FINISHED and world.is_first:
            return conclude(run, folder, attempt)
    except Interrupted:  # before the first step; what was scored is kept
        return ExitRecord(ExitStatus.STOPPED)
    except ProcessLost as problem:
        reporter.event(str(problem), "warn")
        raise
    finally:
        reporter.close()
    progress = run.learner.progress
    return ExitRecord(
        status=ExitStatus.STOPPED,
        step=progress.step,
        trained_tokens=progress.trained_tokens,
        metrics=last,
    )


@dataclasses.dataclass(frozen=True)
class _Surroundings:
    """What an attempt works in."""

    folder: RunFolder
    attempt: AttemptFolder
    reporter: Reporter
    measured: Measured
    room: Room
    world: World

    def is_superseded(self) -> bool:
        """Tell whether a later attempt has held the run's lock: it said something."""
        later = (AttemptFolder(path) for path in self.folder.path.glob("attempt-*"))
        return any(a.number > self.attempt.number and a.records.exists() for a in later)


def _prepare(
    surroundings: _Surroundings, spec: TrainSpec, stop: StopRequest
) -> tuple[Run, Mapping[str, float]]:
    """Load model and data, see that they fit this machine, and restore the newest checkpoint."""
    folder, reporter, world = surroundings.folder, surroundings.reporter, surroundings.world
    fitting = Fitting(surroundings.measured, reporter, world)
    where = precision.device()
    fitting.check_weights(spec, where)
    base = Path(spec.base.folder)
    verify(base)
    if hash_file(base / MANIFEST) != spec.base.sha256:
        raise RefusedModel(f"Base model {spec.base.name} changed since the job was planned.")
    renderer = Renderer.from_folder(base, learns_last_only=spec.sft.learns_last_only)
    if renderer.template_sha256 != spec.template_sha256:
        raise RefusedModel(f"The chat template of {spec.base.name} changed since planning.")
    encoder = _Encoder(folder, spec, renderer, reporter)
    training, validation = world.after_first("encoded", encoder.both)
    reporter.beat()
    spec = fitting.after(folder, surroundings.attempt, spec, training)
    if world.is_first:
        reporter.diary.begin(world.local_size)
    learner = begin(spec, where)
    reporter.beat()
    tell_kind(spec, where, reporter)
    if not shares_prefixes(spec, learner.policy, reporter):
        training, validation = training.apart(), validation.apart() if validation else None
    objective = plugins.load(objectives, spec.objective).build(spec)
    work = work_of(spec, objective, training, validation, world.size)
    spec = fitting.before_the_first_step(spec, work, learner.policy, training)
    reporter.settled(spec.precision, spec.micro_batch_tokens)
    reference = Reference(
        folder, spec, learner.policy, objective, reporter, lambda: stop.is_set, world
    )
    training = reference.attach(training, "training")
    validation = reference.attach(validation, "validation") if validation else None
    learner.row_losses[TRAINING] = RowLosses(training.num_rows)
    if validation is not None:
        learner.row_losses[VALIDATION] = RowLosses(validation.num_rows)
    checkpoints = Checkpoints(folder, spec, surroundings.room, surroundings.is_superseded, world)
    metrics = checkpoints.resume(learner, reporter)
    run = Run(
        spec=spec,
        objective=objective,
        learner=learner,
        training=training,
        validation=validation,
        checkpoints=checkpoints,
        reporter=reporter,
        should_stop=lambda: stop.is_set,
        is_superseded=surroundings.is_superseded,
        curve=read_curve(folder, learner.progress.step),
        world=world,
    )
    return run, metrics


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """Encodes the run's files, with signs of life."""

    folder: RunFolder
    spec: TrainSpec
    renderer: Renderer
    reporter: Reporter

    def both(self) -> tuple[Samples, Samples | None]:
        """Return the rows to train on and those to validate with, if any."""
        validation = self.spec.validation
        training = self.samples(self.spec.training, "training")
        return training, self.samples(validation, "validation") if validation else None

    def samples(self, data: DataRef, what: str) -> Samples:
        spec, path = self.spec, self.folder.path
        cache = Path(spec.cache_folder) if spec.cache_folder else path / "cache"
        rules = EncodingRules(spec.context_tokens, spec.truncate)
        progress = RowProgress(self.reporter, f"Encoding {what} rows", data.num_examples)
        found = load_samples(path / data.path, data.sha256, self.renderer, rules, cache, progress)
        self.reporter.beat()
        return found


def _fix_choices(surroundings: _Surroundings, spec: TrainSpec) -> TrainSpec:
    """Return ``spec`` with what the first attempt chose for its machine, choosing it if need be.

    Sums depend on how threads split them and on how numbers are rounded: an attempt that chose
    otherwise would not repeat an uninterrupted run.
    """
    measured, world = surroundings.measured, surroundings.world
    threads = world.from_first(
        lambda: measured.fixed("threads", lambda: spec.threads or os.cpu_count() or 1)
    )
    _share_machine(surroundings, threads)
    is_free = spec.origins.get("precision") is Origin.DEFAULT
    where = precision.device()
    found = world.from_first(
        lambda: measured.fixed(
            "precision", lambda: precision.usual_precision(where) if is_free else spec.precision
        )
    )
    if found == Precision.BFLOAT16 and world.is_first:
        _tell_bfloat16(surroundings.reporter, where)
    return dataclasses.replace(spec, threads=threads, precision=Precision(found))


def _share_machine(surroundings: _Surroundings, threads: int) -> None:
    """Take this process's part of the machine's threads, and its GPU.

    What is fixed is the number for the whole machine, so an attempt may have other processes.
    """
    world = surroundings.world
    own = max(1, threads // world.local_size)
    torch.set_num_threads(own)  # whatever OMP_NUM_THREADS says: torchrun sets it to 1
    if not world.is_alone:
        precision.claim_device(world.local_rank)
        surroundings.reporter.event(
            f"{world.size} processes train together; threads of each: {torch.get_num_threads()}"
        )


def _tell_bfloat16(reporter: Reporter, where: str) -> None:
    reporter.event("Products are computed in bfloat16; what is trained and the loss stay float32")
    slowdown = precision.slowdown_of_bfloat16(where)
    if slowdown > _TOLD_SLOWDOWN:
        reporter.event(
            f"This machine computes bfloat16 {slowdown:.0f} times slower than float32. "
            "Leave `precision` out.",
            "warn",
        )


def _failure(problem: Exception) -> ExitRecord:
    if is_disk_full(problem):
        problem = disk_full()
    if memory.is_out_of_memory(problem):
        problem = memory.out_of_memory()
    if isinstance(problem, SintoniaError):
        code = problem.code or problem.default_code or "server_error"
        is_retryable = isinstance(problem, InsufficientStorage) or code == OUT_OF_MEMORY
        return ExitRecord(ExitStatus.FAILED, code, problem.message, is_retryable)
    return ExitRecord(
        ExitStatus.FAILED,
        "server_error",
        f"The trainer met an unexpected error ({type(problem).__name__}); its output has more.",
    )


def _problem(record: ExitRecord) -> dict[str, Any] | None:
    """Return what the other processes have to know of a failure."""
    if record.status is not ExitStatus.FAILED:
        return None
    return {name: getattr(record, name) for name in ("code", "message", "is_retryable")}


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    with folder.lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"Another trainer works on {folder.path.name}.") from None
        yield


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, return the exit status (0 when not failed)."""
    parser = argparse.ArgumentParser(prog="sintonia.training.run", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument(
        "--attempt", type=int, help="number of this start; the next one if left out"
    )
    given = parser.parse_args(arguments)
    chosen = settings.load()
    failpoints.arm(chosen.failpoint)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    memory.offer_to_kernel()
    stop = StopRequest()
    stop.install()
    folder = RunFolder(given.run_folder)
    if not folder.spec.is_file():
        sys.stderr.write(f"Folder {folder.path}: it holds no run (spec.json is missing).\n")
        return 1
    try:
        with joined() as world:
            if given.attempt is None:  # the first one alone looks: it makes the folder next
                given.attempt = world.from_first(lambda: folder.next_attempt().number)
            record = run_attempt(
                folder,
                folder.attempt(given.attempt),
                stop,
                min_free_bytes=chosen.min_free_bytes,
                world=world,
            )
    except (AlreadyRunning, InvalidValue, ProcessLost) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return int(record.status is ExitStatus.FAILED)


if __name__ == "__main__":
    sys.exit(main())
