"""The trainer's command: ``python -m sintonia.training.run RUN_DIR --attempt N``.

It needs nothing but the run's directory and the base model's folder: no server, no database.
Whatever happens short of a kill, it leaves an exit record that says how it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
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
from safetensors import SafetensorError

from sintonia import failpoints, objectives, plugins, settings
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, Samples, load_samples
from sintonia.errors import (
    AlreadyRunning,
    InsufficientStorage,
    RefusedModel,
    SintoniaError,
    TrainerFailed,
)
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.runs.layout import AttemptFolder, RunFolder, step_folder_name
from sintonia.runs.records import ExitRecord, ExitStatus, write_exit
from sintonia.runs.spec import DataRef, TrainSpec, read_spec
from sintonia.sealed import hash_file, read_json, verify, write_json
from sintonia.training.checkpoint import Checkpoints, Learner, Progress
from sintonia.training.loop import Ending, Run, train
from sintonia.training.optimizer import build_optimizer
from sintonia.training.reporter import Reporter


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


def run_attempt(folder: RunFolder, attempt: AttemptFolder, stop: StopRequest) -> ExitRecord:
    """Run or resume the training of ``folder`` and write how it ended.

    Raises ``AlreadyRunning`` when another trainer holds the run; that one's record stands.
    """
    attempt.path.mkdir(exist_ok=True)
    with _locked(folder):
        try:
            record = _train(folder, attempt, stop)
        # The one broad handler of the trainer: whatever it is, the run's directory says so.
        except Exception as problem:  # noqa: BLE001
            with contextlib.suppress(OSError):  # the disk may be full
                traceback.print_exc()
            record = _failure(problem)
        write_exit(attempt, record)
    return record


def _train(folder: RunFolder, attempt: AttemptFolder, stop: StopRequest) -> ExitRecord:
    spec = read_spec(folder.spec)
    reporter = Reporter(attempt)
    try:
        _fix_threads(folder, spec)
        run, metrics = _prepare(folder, spec, reporter, stop)
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
    folder: RunFolder, spec: TrainSpec, reporter: Reporter, stop: StopRequest
) -> tuple[Run, Mapping[str, float]]:
    """Load model and data and restore the newest checkpoint."""
    base = Path(spec.base.folder)
    verify(base)
    if hash_file(base / "manifest.json") != spec.base.sha256:
        raise RefusedModel(f"Base model {spec.base.name} changed since the job was planned.")
    renderer = Renderer.from_folder(base)
    if renderer.template_sha256 != spec.template_sha256:
        raise RefusedModel(f"The chat template of {spec.base.name} changed since planning.")
    training = _samples(folder, spec, spec.training, renderer)
    validation = _samples(folder, spec, spec.validation, renderer) if spec.validation else None
    reporter.beat()
    learner = _learner(spec)
    reporter.beat()
    checkpoints = Checkpoints(folder, spec)
    metrics = checkpoints.resume(learner, reporter)
    objective = plugins.load(objectives, spec.objective)
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
    adapters.attach(model, spec.lora)
    adapters.reset(model, spec.seed)
    if spec.parent is not None:
        parent = Path(spec.parent.folder)
        verify(parent)
        adapters.load(model, parent)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Learner(Policy(model), build_optimizer(trained, spec.optimizer), Progress())


def _samples(folder: RunFolder, spec: TrainSpec, data: DataRef, renderer: Renderer) -> Samples:
    cache = Path(spec.cache_folder) if spec.cache_folder else folder.path / "cache"
    rules = EncodingRules(spec.context_tokens, spec.truncate)
    return load_samples(folder.path / data.path, data.sha256, renderer, rules, cache)


def _fix_threads(folder: RunFolder, spec: TrainSpec) -> None:
    """Use the number of threads of the first attempt: sums depend on how they are split."""
    if not folder.measured.exists():
        write_json(folder.measured, {"threads": spec.threads or os.cpu_count() or 1})
    torch.set_num_threads(read_json(folder.measured)["threads"])


def _failure(problem: Exception) -> ExitRecord:
    if _is_disk_full(problem):
        problem = InsufficientStorage(
            "The disk is full. Free space (`sintonia gc` shows what can go); "
            "the job resumes from its last checkpoint."
        )
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


def _is_disk_full(problem: Exception) -> bool:
    """Tell a full disk, which safetensors reports as an error of its own kind."""
    if isinstance(problem, OSError):
        return problem.errno == errno.ENOSPC
    return isinstance(problem, SafetensorError) and f"os error {errno.ENOSPC}" in str(problem)


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
    parser.add_argument("--attempt", type=int, default=1)
    given = parser.parse_args(arguments)
    failpoints.arm(settings.load().failpoint)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    stop = StopRequest()
    stop.install()
    folder = RunFolder(given.run_folder)
    try:
        record = run_attempt(folder, folder.attempt(given.attempt), stop)
    except AlreadyRunning as problem:
        sys.stderr.write(f"{problem.message}\n")
        return 1
    return int(record.status is ExitStatus.FAILED)


if __name__ == "__main__":
    sys.exit(main())
