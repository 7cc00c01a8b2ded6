"""Leads a job from the queue to its end: launches or adopts a trainer, tries again, gives up.

Invariant: at most one trainer of a job works. The store counts an attempt before its trainer
is launched, and a worker looks for the trainer of the last attempt before it launches another.
"""

from __future__ import annotations

import logging

from sintonia import failpoints
from sintonia.domain.jobs import JobError, JobStatus
from sintonia.errors import DamagedCheckpoint, InsufficientStorage, TrainerFailed
from sintonia.jobs.context import WorkerContext
from sintonia.jobs.settle import settle
from sintonia.jobs.watch import Ending, Followed, Watch
from sintonia.runs import memory
from sintonia.runs.layout import AttemptFolder, RunFolder, step_of
from sintonia.runs.records import ExitRecord, ExitStatus
from sintonia.runs.spec import read_spec
from sintonia.sealed import MANIFEST
from sintonia.store import Claim, ClaimLost
from sintonia.store.queue import LAUNCHING

FAILED_AND_RETRIED = (
    "The job experienced an error while training and failed, it has been re-enqueued for retry."
)
INTERRUPTED = "Training was interrupted and resumes from where it stopped."
OUTPUT_LINES = 5
OUTPUT_BYTES = 8192

_log = logging.getLogger(__name__)


def run_job(context: WorkerContext, claim: Claim) -> None:
    """Lead a claimed job as far as it goes.

    It ends succeeded or failed, is paused, or is given back when the worker is to end. Raises
    ``ClaimLost`` when the job was cancelled (its trainer is stopped) or taken over.
    """
    queue = context.store.queue
    if claim.job.status is JobStatus.QUEUED:
        claim = queue.start(claim)
    keep_checkpoints = read_spec(context.run_folder(claim.job.id).spec).keep_checkpoints
    adopted = _adopt(context, claim)
    if adopted is None and _has_paused(context, claim):
        return
    claim = adopted or _launch(context, queue.start_attempt(claim))
    while True:
        followed = _follow(context, Watch(context, claim, keep_checkpoints))
        claim = followed.claim
        if followed.exit is not None and _has_finished(context, claim, followed.exit):
            return
        if followed.ending is not Ending.LEFT and _has_paused(context, claim):
            return
        newest_step = newest_resume_step(context.run_folder(claim.job.id))
        if context.stop.wait(_pause_seconds(context, followed)):
            queue.release(claim)
            return
        is_given_up = claim.failures_after(newest_step) >= context.settings.trainer_attempts
        if is_given_up and not _lacked_room(context, followed):
            queue.fail(claim, _why(context, followed))
            return
        claim = _launch(context, queue.retry(claim, newest_step, _retry_message(followed)))


def stop_trainer(context: WorkerContext, claim: Claim) -> None:
    """End the trainer of a job that is over."""
    job = claim.job
    assert job.handle is not None, "only jobs with a handle are claimed to be stopped"
    trainer = _resolved(context, claim)
    if trainer is not None:
        context.executor.stop(trainer, context.pace.grace_seconds)
    context.store.queue.forget_handle(job.id, job.handle)


def newest_resume_step(run: RunFolder) -> int:
    """Return the newest step that an attempt can resume from, 0 when there is none."""
    sealed = (step_of(folder) for folder in run.resume_points() if (folder / MANIFEST).exists())
    return max(sealed, default=0)


def last_output(attempt: AttemptFolder) -> str:
    """Return the last lines that a trainer printed, in one line."""
    if not attempt.output.exists():
        return ""
    with attempt.output.open("rb") as file:
        file.seek(max(0, attempt.output.stat().st_size - OUTPUT_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-OUTPUT_LINES:])


def _adopt(context: WorkerContext, claim: Claim) -> Claim | None:
    """Return the claim with the trainer of its last attempt, if one was ever launched."""
    if claim.job.handle is None:
        return None
    trainer = _resolved(context, claim)
    if trainer is None:
        return None
    _log.info("adopting attempt %d of %s", claim.attempt, claim.job.id)
    return context.store.queue.set_handle(claim, trainer)


def _launch(context: WorkerContext, claim: Claim) -> Claim:
    trainer = context.executor.launch(context.run_folder(claim.job.id), claim.attempt)
    failpoints.reach("launch")
    try:
        return context.store.queue.set_handle(claim, trainer)
    except ClaimLost:
        _stop_if_over(context, claim.job.id, trainer)
        raise


def _follow(context: WorkerContext, watch: Watch) -> Followed:
    try:
        return watch.follow()
    except ClaimLost:
        _stop_if_over(context, watch.job_id, watch.handle)
        raise


def _stop_if_over(context: WorkerContext, job_id: str, trainer: str) -> None:
    """Stop the trainer of a cancelled job; one that another worker took over is left alone."""
    if not context.store.jobs.get(job_id).status.is_terminal:
        return
    context.executor.stop(trainer, context.pace.grace_seconds)
    context.store.queue.forget_handle(job_id, trainer)


def _resolved(context: WorkerContext, claim: Claim) -> str | None:
    """Return the trainer's handle, looking for one whose launcher died before it told."""
    if claim.job.handle != LAUNCHING:
        return claim.job.handle
    return context.executor.find(context.run_folder(claim.job.id), claim.attempt)


def _has_finished(context: WorkerContext, claim: Claim, ended: ExitRecord) -> bool:
    """End the job if its attempt ended for good; ``False`` when another attempt may do better."""
    if ended.status is ExitStatus.SUCCEEDED:
        try:
            settle(context, claim, ended)
        except DamagedCheckpoint as problem:
            _log.warning("the result of %s cannot be used: %s", claim.job.id, problem)
            return False
        return True
    if ended.status is ExitStatus.FAILED and not ended.is_retryable:
        context.store.queue.fail(claim, _error_of(ended))
        return True
    return False


def _has_paused(context: WorkerContext, claim: Claim) -> bool:
    """Let a job rest that has no trainer, if its caller asked for it."""
    claim = context.store.queue.refresh(claim)
    if claim.job.status is not JobStatus.PAUSING:
        return False
    step = newest_resume_step(context.run_folder(claim.job.id))
    where = f"after step {step}" if step else "before its first step was saved"
    context.store.queue.pause(claim, f"Fine-tuning job paused {where}")
    return True


def _error_of(ended: ExitRecord) -> JobError:
    code = ended.code or TrainerFailed.default_code or "server_error"
    return JobError(code=code, message=ended.message or "The training process failed.")


def _why(context: WorkerContext, followed: Followed) -> JobError:
    """Say why a job is given up after its last attempt."""
    claim, attempts = followed.claim, context.settings.trainer_attempts
    if followed.exit is not None and followed.exit.status is ExitStatus.FAILED:
        return _error_of(followed.exit)
    how = {
        Ending.DIED: "ended without a result (killed, perhaps by a system short of memory)",
        Ending.HUNG: f"did nothing for {context.pace.hang_seconds:g} seconds",
        Ending.EXITED: "was stopped or left a damaged result",
    }[followed.ending]
    message = f"The training process {how}, {attempts} times in a row without progress."
    printed = last_output(context.run_folder(claim.job.id).attempt(claim.attempt))
    return JobError(
        code="server_error", message=message + (f" It last printed: {printed}" if printed else "")
    )


def _pause_seconds(context: WorkerContext, followed: Followed) -> float:
    """Return how long to wait before the next attempt; room on a disk takes longer to come."""
    if followed.ending is Ending.LEFT:
        return 0.0
    if _met_a_full_disk(followed):
        return context.pace.full_disk_seconds
    return context.pace.retry_seconds


def _met_a_full_disk(followed: Followed) -> bool:
    """Tell whether the attempt ended for want of room, which is no fault of the job."""
    return followed.exit is not None and followed.exit.code == InsufficientStorage.default_code


def _lacked_room(context: WorkerContext, followed: Followed) -> bool:
    """Tell whether the attempt ended for want of disk or memory.

    It does not count against the job: a disk is waited for, and each attempt that lacked memory
    is followed by one that needs half of it, down to one row at a time. The next attempt looks at
    the same signs, so those that are not counted come to an end.
    """
    attempt = context.run_folder(followed.claim.job.id).attempt(followed.claim.attempt)
    return _met_a_full_disk(followed) or memory.ran_out(attempt)


def _retry_message(followed: Followed) -> str:
    ended = followed.exit
    if ended is None or ended.status is ExitStatus.SUCCEEDED:
        return FAILED_AND_RETRIED
    if ended.status is ExitStatus.STOPPED:
        return INTERRUPTED
    return f"{FAILED_AND_RETRIED} {ended.message}"
