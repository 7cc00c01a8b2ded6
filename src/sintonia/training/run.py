"""The trainer's command: ``python -m sintonia.training.run RUN_DIR [--attempt N]``.

It needs nothing but the run's directory and the base model's folder: no server, no database.
Whatever happens short of a kill, it leaves an exit record that says how it ended. Launched by
torchrun, several processes make the attempt together; the first of them writes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sintonia import failpoints, settings
from sintonia.errors import (
    AlreadyRunning,
    InsufficientStorage,
    InvalidValue,
    SintoniaError,
)
from sintonia.runs import memory
from sintonia.runs.layout import AttemptFolder, RunFolder
from sintonia.runs.records import OUT_OF_MEMORY, ExitRecord, ExitStatus, reserve_exit, write_exit
from sintonia.runs.spec import read_spec
from sintonia.training.distributed import ALONE, OtherFailed, ProcessLost, World, joined
from sintonia.training.loop import Ending, train
from sintonia.training.machine import fix_choices
from sintonia.training.measured import Measured
from sintonia.training.prepare import Surroundings, prepare
from sintonia.training.reference import Interrupted
from sintonia.training.reporter import Reporter
from sintonia.training.result import conclude
from sintonia.training.room import Room, disk_full, is_disk_full
from sintonia.training.turn import Turn


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
        measured = Measured(folder, Turn(folder, attempt).require)
        spec = fix_choices(spec, measured, reporter, world)
        around = Surroundings(
            folder, attempt, reporter, measured, room, world, should_stop=lambda: stop.is_set
        )
        run, metrics = prepare(around, spec)
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
