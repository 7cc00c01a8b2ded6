"""The worker process: threads that claim jobs and lead them on, until it is told to end.

Invariant: no job and no fault of one ends the worker. Trainers outlive it and are adopted by
the next.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sintonia import catalog, failpoints, parent
from sintonia import settings as settings_module
from sintonia.bases.library import Library
from sintonia.domain.jobs import EventLevel, JobError
from sintonia.errors import InsufficientStorage, SintoniaError, Unavailable
from sintonia.jobs.attempts import run_job, stop_trainer
from sintonia.jobs.context import WorkerContext
from sintonia.jobs.executors.local import LocalExecutor
from sintonia.jobs.leases import KeptClaim
from sintonia.jobs.prepare import NotYet, prepare_job
from sintonia.jobs.processes import is_known_dead, worker_name
from sintonia.sealed import FULL_DISK
from sintonia.settings import Settings
from sintonia.store import Claim, ClaimLost, Stage, Store

JOIN_SECONDS = 5.0
ORPHAN_SECONDS = 3600.0
"""Bytes that no file refers to are swept when they are this old."""
DISK_FULL = "The disk is full; the job goes on when there is space again."
DISK_FULL_RETRY_SECONDS = 15.0
UNEXPECTED = (
    "The job failed because of an unexpected error of the server. "
    "Its operator finds the reason in worker.log."
)

_log = logging.getLogger(__name__)

Handler = Callable[[WorkerContext, Claim], None]


@dataclass(frozen=True)
class _Role:
    """What one thread of the worker does."""

    name: str
    stage: Stage
    handler: Handler


def run(settings: Settings, stop: threading.Event) -> None:
    """Work until ``stop`` is set."""
    store = Store.open(settings)
    entries = catalog.load(settings.aliases)
    library = Library(settings.home, entries, embedded_wheel=settings.embedded_wheel)
    executor = LocalExecutor(niceness=settings.trainer_niceness)
    work(WorkerContext(settings, store, library, executor, stop))
    store.close()


def work(context: WorkerContext) -> None:
    """Run the threads of a worker until its context's ``stop`` is set."""
    roles = [
        _Role("prepare", Stage.PREPARING, prepare_job),
        _Role("reap", Stage.STOPPING, stop_trainer),
        *(_Role(f"train-{n}", Stage.RUNNING, run_job) for n in range(context.settings.trainers)),
    ]
    owner = worker_name()
    threads = [
        threading.Thread(target=_serve, args=(context, role, owner), name=role.name, daemon=True)
        for role in roles
    ]
    threads.append(threading.Thread(target=_keep_house, args=(context,), name="house", daemon=True))
    _free_jobs_of_the_dead(context)  # before the first claim: their trainers may be alive
    for thread in threads:
        thread.start()
    _log.info("worker %s is ready", owner)
    context.stop.wait()
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in threads:  # one that is deep in a file is left behind; its lease dies with us
        thread.join(max(0.0, deadline - time.monotonic()))


def _serve(context: WorkerContext, role: _Role, owner: str) -> None:
    """Claim and handle jobs of one stage, one after the other."""
    try:
        while not context.stop.is_set():
            claim = _claim(context, role.stage, owner)
            if claim is None:
                context.stop.wait(context.pace.poll_seconds)
            else:
                _handle(context, claim, role.handler)
    finally:
        context.stop.set()  # a worker that lost a thread is better started again


def _claim(context: WorkerContext, stage: Stage, owner: str) -> Claim | None:
    try:
        settings = context.settings
        return context.store.queue.claim(
            stage, owner, settings.lease_seconds, max_running=settings.trainers
        )
    except SintoniaError as problem:  # busy or full: the next look may succeed
        _log.warning("no claim: %s", problem)
        return None


def _handle(context: WorkerContext, claim: Claim, handler: Handler) -> None:
    """Work on one job. Whatever goes wrong with it is the job's end, not the worker's."""
    pace = context.pace
    try:
        with KeptClaim(context.store.queue, claim):
            handler(context, claim)
    except ClaimLost:
        _log.info("%s is no longer this worker's", claim.job.id)
    except NotYet:
        _release(context, claim, pace.retry_seconds)
    except Unavailable as problem:
        _log.warning("%s has to wait: %s", claim.job.id, problem)
        _release(context, claim, pace.retry_seconds)
    except (InsufficientStorage, OSError) as problem:
        if not _is_disk_full(problem):
            _fail_unexpectedly(context, claim)
            return
        _log.warning("%s has to wait: the disk is full", claim.job.id)
        _note_full_disk(context, claim)
    except SintoniaError as problem:
        _log.warning("%s failed: %s", claim.job.id, problem)
        _fail(context, claim, _error_of(problem))
    except Exception:  # noqa: BLE001 - the one broad handler: around a job
        _fail_unexpectedly(context, claim)


def _keep_house(context: WorkerContext) -> None:
    """Free jobs of workers that died, at once; sweep what crashes left, now and then."""
    looks_a_sweep = max(1, round(context.pace.sweep_seconds / context.pace.poll_seconds))
    looks = 0
    while not context.stop.is_set():
        try:
            _expire_leases_of_the_dead(context)
            if looks % looks_a_sweep == 0:
                context.store.files.sweep(ORPHAN_SECONDS)
        except (SintoniaError, OSError) as problem:
            _log.warning("housekeeping: %s", problem)
        looks += 1
        context.stop.wait(context.pace.poll_seconds)


def _free_jobs_of_the_dead(context: WorkerContext) -> None:
    try:
        _expire_leases_of_the_dead(context)
    except SintoniaError as problem:  # busy or full: housekeeping looks again
        _log.warning("housekeeping: %s", problem)


def _expire_leases_of_the_dead(context: WorkerContext) -> None:
    for lease in context.store.queue.leases():
        if is_known_dead(lease.owner):
            _log.info("%s was held by a worker that died", lease.job_id)
            context.store.queue.expire(lease)


def _is_disk_full(problem: InsufficientStorage | OSError) -> bool:
    if isinstance(problem, InsufficientStorage):
        return True
    return problem.errno in FULL_DISK


def _note_full_disk(context: WorkerContext, claim: Claim) -> None:
    try:
        current = context.store.queue.refresh(claim)
        context.store.queue.note(current, DISK_FULL, EventLevel.WARN)
    except (SintoniaError, ClaimLost) as problem:
        _log.warning("no event: %s", problem)
    _release(context, claim, DISK_FULL_RETRY_SECONDS)


def _release(context: WorkerContext, claim: Claim, retry_after_seconds: float) -> None:
    try:
        context.store.queue.release(claim, retry_after_seconds)
    except SintoniaError as problem:  # the lease runs out by itself
        _log.warning("%s could not be given back: %s", claim.job.id, problem)


def _fail_unexpectedly(context: WorkerContext, claim: Claim) -> None:
    _log.exception("%s failed", claim.job.id)
    _fail(context, claim, JobError(code="server_error", message=UNEXPECTED))


def _fail(context: WorkerContext, claim: Claim, error: JobError) -> None:
    try:
        current = context.store.queue.refresh(claim)
        context.store.queue.fail(current, error)
    except ClaimLost:
        _log.info("%s is no longer this worker's", claim.job.id)
    except SintoniaError as problem:  # another claim will come to the same end
        _log.warning("%s could not be failed: %s", claim.job.id, problem)


def _error_of(problem: SintoniaError) -> JobError:
    return JobError(
        code=problem.code or "server_error", message=problem.message, param=problem.param
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Run as a process: until SIGTERM, or until standard input closes with its parent's end."""
    assert not arguments, "the worker reads its settings from the environment"
    settings = settings_module.load()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    failpoints.arm(settings.failpoint)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    parent.when_it_ends(stop.set)
    run(settings, stop)


if __name__ == "__main__":
    main()
