"""The trainer's command: ``python -m sintonia.training.run RUN_DIR [--attempt N]``.

It needs nothing but the run's directory and the base model's folder: no server, no database.
Whatever happens short of a kill, it leaves an exit record that says how it ended.
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
    TrainerFailed,
)
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.runs.layout import AttemptFolder, RunFolder, step_folder_name
from sintonia.runs.records import ExitRecord, ExitStatus, reserve_exit, write_exit
from sintonia.runs.spec import DataRef, Origin, TrainSpec, read_spec
from sintonia.sealed import MANIFEST, hash_file, read_json, verify, write_json
from sintonia.training.checkpoint import Checkpoints, Learner, Progress
from sintonia.training.loop import Ending, Run, train
from sintonia.training.optimizer import build_optimizer
from sintonia.training.reference import Reference
from sintonia.training.reporter import Reporter, RowProgress
from sintonia.training.room import Room, disk_full, is_disk_full


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
    folder: RunFolder, attempt: AttemptFolder, stop: StopRequest, *, min_free_bytes: int
) -> ExitRecord:
    """Run or resume the training of ``folder`` and write how it ended.

    Raises ``AlreadyRunning`` when another trainer holds the run, and ``InvalidValue`` for an
    attempt that was made before: what those wrote stands.
    """
    attempt.path.mkdir(exist_ok=True)
    with _locked(folder):
        if attempt.records.exists():
            raise InvalidValue(
                f"Attempt {attempt.number} of {folder.path.name}: it was made before. "
                "Leave --attempt out to make the next one.",
                param="attempt",
            )
        try:
            reserve_exit(attempt)
            record = _train(folder, attempt, stop, Room(folder.path, min_free_bytes))
        # The one broad handler of the trainer: whatever it is, the run's directory says so.
        except Exception as problem:  # noqa: BLE001
            with contextlib.suppress(OSError):  # the disk may be full
                traceback.print_exc()
            record = _failure(problem)
        write_exit(attempt, record)
    return record


def _train(folder: RunFolder, attempt: AttemptFolder, stop: StopRequest, room: Room) -> ExitRecord:
    spec = read_spec(folder.spec)
    reporter = Reporter(attempt)
    try:
        room.require()
        spec = dataclasses.replace(spec, threads=_fix_threads(folder, spec))
        run, metrics = _prepare(folder, spec, reporter, stop, room)
        ending, last = train(run, dict(metrics))
    finally:
        reporter.close()
    progress = run.learner.progress
    is_finished = ending is Ending.FINISHED
    return ExitRecord(
        status=ExitStatus.SUCCEEDED if is_finished else ExitStatus.STOPPED,
        step=progress.step,
        trained_tokens=progress.trained_tokens,
        model_folder=f"checkpoints/{step_folder_name(progress.step)}" if is_finished else None,
        metrics=last,
    )


def _prepare(
    folder: RunFolder, spec: TrainSpec, reporter: Reporter, stop: StopRequest, room: Room
) -> tuple[Run, Mapping[str, float]]:
    """Load model and data and restore the newest checkpoint."""
    base = Path(spec.base.folder)
    verify(base)
    if hash_file(base / MANIFEST) != spec.base.sha256:
        raise RefusedModel(f"Base model {spec.base.name} changed since the job was planned.")
    renderer = Renderer.from_folder(base)
    if renderer.template_sha256 != spec.template_sha256:
        raise RefusedModel(f"The chat template of {spec.base.name} changed since planning.")
    encoder = _Encoder(folder, spec, renderer, reporter)
    training = encoder.samples(spec.training, "training")
    validation = encoder.samples(spec.validation, "validation") if spec.validation else None
    reporter.beat()
    learner = _learner(spec)
    reporter.beat()
    objective = plugins.load(objectives, spec.objective).build(spec)
    reference = Reference(folder, spec, learner.policy, objective, reporter)
    training = reference.attach(training, "training")
    validation = reference.attach(validation, "validation") if validation else None
    checkpoints = Checkpoints(folder, spec, room)
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
    )
    return run, metrics


def _learner(spec: TrainSpec) -> Learner:
    model = load_base(Path(spec.base.folder))
    assert spec.lora is not None, "only adapters are trained yet"
    are_guessed = spec.origins.get("lora.targets") is not Origin.GIVEN
    adapters.attach(model, spec.lora, are_guessed=are_guessed)
    adapters.reset(model, spec.seed)
    if spec.parent is not None:
        parent = Path(spec.parent.folder)
        verify(parent)
        if hash_file(parent / MANIFEST) != spec.parent.sha256:
            raise RefusedModel(
                f"Model {spec.parent.model}, which training goes on from, changed since the job "
                "was planned. Make a new job."
            )
        adapters.load(model, parent)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return Learner(Policy(model), build_optimizer(trained, spec.optimizer), Progress())


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """Encodes the run's files, with signs of life."""

    folder: RunFolder
    spec: TrainSpec
    renderer: Renderer
    reporter: Reporter

    def samples(self, data: DataRef, what: str) -> Samples:
        spec, path = self.spec, self.folder.path
        cache = Path(spec.cache_folder) if spec.cache_folder else path / "cache"
        rules = EncodingRules(spec.context_tokens, spec.truncate)
        progress = RowProgress(self.reporter, f"Encoding {what} rows", data.num_examples)
        found = load_samples(path / data.path, data.sha256, self.renderer, rules, cache, progress)
        self.reporter.beat()
        return found


def _fix_threads(folder: RunFolder, spec: TrainSpec) -> int:
    """Use the number of threads of the first attempt: sums depend on how they are split."""
    if not folder.measured.exists():
        write_json(folder.measured, {"threads": spec.threads or os.cpu_count() or 1})
    threads: int = read_json(folder.measured)["threads"]
    torch.set_num_threads(threads)
    return threads


def _failure(problem: Exception) -> ExitRecord:
    if is_disk_full(problem):
        problem = disk_full()
    if isinstance(problem, MemoryError) or "can't allocate memory" in str(problem):
        problem = TrainerFailed("The trainer ran out of memory.", code="out_of_memory")
    if isinstance(problem, SintoniaError):
        code = problem.code or problem.default_code or "server_error"
        is_retryable = isinstance(problem, InsufficientStorage)
        return ExitRecord(ExitStatus.FAILED, code, problem.message, is_retryable)
    return ExitRecord(
        ExitStatus.FAILED,
        "server_error",
        f"The trainer met an unexpected error ({type(problem).__name__}); its output has more.",
    )


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
    stop = StopRequest()
    stop.install()
    folder = RunFolder(given.run_folder)
    if not folder.spec.is_file():
        sys.stderr.write(f"Folder {folder.path}: it holds no run (spec.json is missing).\n")
        return 1
    attempt = folder.next_attempt() if given.attempt is None else folder.attempt(given.attempt)
    try:
        record = run_attempt(folder, attempt, stop, min_free_bytes=chosen.min_free_bytes)
    except (AlreadyRunning, InvalidValue) as problem:
        sys.stderr.write(f"{problem.message}\n")
        return 1
    return int(record.status is ExitStatus.FAILED)


if __name__ == "__main__":
    sys.exit(main())
