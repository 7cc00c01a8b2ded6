"""Jobs as the worker sees them: claimed, led through their statuses, settled.

Invariant: each write names the claim it belongs to, and changes nothing when another holds the
job or the job has ended (``ClaimLost``). A claim is a row's owner and a lease that heartbeats
renew; the attempt number tells one trainer from the next.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from sintonia import failpoints
from sintonia.domain.jobs import EventLevel, Job, JobError, JobEvent, JobStatus
from sintonia.store.claims import (
    Admission,
    Claim,
    ClaimLost,
    ImportBatch,
    Lease,
    Settlement,
    Stage,
)
from sintonia.store.database import Database
from sintonia.store.fence import (
    ENDED,
    change_job,
    finish_job,
    held_by,
    lock_job,
    move_job,
    read_again,
    read_claim,
)
from sintonia.store.imports import import_batch, keep_checkpoints, put_model
from sintonia.store.jobs import ACTIVE, has_event, insert_event, read_job
from sintonia.store.rows import file_values
from sintonia.store.tables import EVENTS, FILES, JOBS

LAUNCHING = "launching"
"""The handle of an attempt whose trainer may have been launched but is not known yet."""

_WORK = {
    Stage.PREPARING: JOBS.c.status == JobStatus.VALIDATING_FILES,
    Stage.RUNNING: JOBS.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING]),
    Stage.STOPPING: sa.and_(JOBS.c.status.in_(ENDED), JOBS.c.handle.is_not(None)),
}


class Queue:
    """The worker's side of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, stage: Stage, owner: str, lease_seconds: float, *, max_running: int | None = None
    ) -> Claim | None:
        """Take the oldest job with work of this stage that nobody holds; ``None``: there is none.

        ``owner`` names the worker; the claim's own owner adds a nonce to it. Running jobs come
        before queued ones, whose trainers have yet to be launched; with ``max_running``, a
        queued one is left alone while so many run, whoever holds them and even if nobody does.
        """
        now = time.time()
        token = f"{owner}/{secrets.token_hex(8)}"
        work = _work(stage, now, max_running)
        free = (
            sa.select(JOBS.c.seq)
            .where(work)
            .order_by(JOBS.c.status == JobStatus.QUEUED, JOBS.c.seq)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        take = (
            JOBS.update()
            .where(JOBS.c.seq == free, JOBS.c.lease_expires_at <= now)
            .values(owner=token, lease_expires_at=now + lease_seconds)
            .returning(JOBS.c.id)
        )
        if not self._has(work):
            return None
        with self._database.write() as connection:
            job_id = connection.scalar(take)
            if job_id is None:
                return None
            claim = read_claim(connection, job_id, stage, lease_seconds)
        failpoints.reach("claim")
        return claim

    def heartbeat(self, claim: Claim) -> bool:
        """Renew the lease; ``False`` when the claim is lost or the job has ended.

        Any attempt of the claim will do: the lease belongs to the owner.
        """
        failpoints.reach("heartbeat")
        change = JOBS.update().where(
            JOBS.c.id == claim.job.id, JOBS.c.owner == claim.owner, JOBS.c.status.in_(ACTIVE)
        )
        with self._database.write() as connection:
            change = change.values(lease_expires_at=time.time() + claim.lease_seconds)
            return connection.execute(change).rowcount == 1

    def is_held(self, claim: Claim) -> bool:
        """Tell whether the claim still allows writing."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(JOBS.c.seq).where(*held_by(claim))) is not None

    def refresh(self, claim: Claim) -> Claim:
        """Return the claim with the job as it is now, whatever its holder did since.

        Raises ``ClaimLost`` when another holds the job or it has ended.
        """
        with self._database.read() as connection:
            current = read_again(connection, claim)
        if current.owner != claim.owner or current.job.status.is_terminal:
            raise ClaimLost(claim.job.id)
        return current

    def release(self, claim: Claim, retry_after_seconds: float = 0) -> None:
        """Give the job back, to be claimed again after some time. A lost claim is no error."""
        change = JOBS.update().where(JOBS.c.id == claim.job.id, JOBS.c.owner == claim.owner)
        values = {"owner": None, "lease_expires_at": time.time() + retry_after_seconds}
        with self._database.write() as connection:
            connection.execute(change.values(values))

    def leases(self) -> list[Lease]:
        """Return who holds which job."""
        query = sa.select(JOBS.c.id, JOBS.c.owner).where(JOBS.c.owner.is_not(None))
        with self._database.read() as connection:
            return [Lease(row.id, row.owner) for row in connection.execute(query)]

    def expire(self, lease: Lease) -> None:
        """End a lease whose owner is known to be dead, so that the job can be claimed at once."""
        change = JOBS.update().where(JOBS.c.id == lease.job_id, JOBS.c.owner == lease.owner)
        with self._database.write() as connection:
            connection.execute(change.values(owner=None, lease_expires_at=0))

    def note(self, claim: Claim, message: str, level: EventLevel = EventLevel.INFO) -> bool:
        """Add an event unless the job has one with this text already (work that is redone).

        Returns whether it was added. Raises ``ClaimLost``.
        """
        with self._database.write() as connection:
            lock_job(connection, claim)
            if has_event(connection, claim.job.id, message):
                return False
            insert_event(connection, claim.job.id, message, level=level)
            return True

    def add_event(
        self, claim: Claim, message: str, level: EventLevel = EventLevel.INFO
    ) -> JobEvent:
        """Add an event. Raises ``ClaimLost``."""
        with self._database.write() as connection:
            lock_job(connection, claim)
            return insert_event(connection, claim.job.id, message, level=level)

    def admit(self, claim: Claim, admission: Admission) -> None:
        """Move a prepared job to the queue and give the claim up. Raises ``ClaimLost``."""
        values = dataclasses.asdict(admission) | {"owner": None, "lease_expires_at": 0}
        with self._database.write() as connection:
            move_job(connection, claim, JobStatus.QUEUED, values)
            message = "Files validated, moving job to queued state"
            insert_event(connection, claim.job.id, message)

    def start(self, claim: Claim) -> Claim:
        """Move a queued job to running. Raises ``ClaimLost``."""
        with self._database.write() as connection:
            move_job(connection, claim, JobStatus.RUNNING, {})
            insert_event(connection, claim.job.id, "Fine-tuning job started")
            return read_again(connection, claim)

    def start_attempt(self, claim: Claim) -> Claim:
        """Begin one more attempt; the old claim can write no more. Raises ``ClaimLost``."""
        with self._database.write() as connection:
            change_job(connection, claim, _next_attempt(claim))
            return read_again(connection, claim)

    def set_handle(self, claim: Claim, handle: str) -> Claim:
        """Remember the live trainer, so that another worker can adopt it. Raises ``ClaimLost``."""
        with self._database.write() as connection:
            change_job(connection, claim, {"handle": handle})
            return read_again(connection, claim)

    def import_records(self, claim: Claim, batch: ImportBatch) -> Claim:
        """Store what a trainer said, and how far it was read, together. Raises ``ClaimLost``."""
        values: dict[str, Any] = {"import_offset": batch.end_offset}
        if batch.estimated_finish is not None:
            values["estimated_finish"] = batch.estimated_finish
        with self._database.write() as connection:
            change_job(connection, claim, values, JOBS.c.import_offset == claim.import_offset)
            import_batch(connection, claim, batch)
            failpoints.reach("import.commit")
            return read_again(connection, claim)

    def retry(self, claim: Claim, newest_step: int, message: str) -> Claim:
        """Count a failure (see ``Claim.failures_after``) and start the next attempt.

        ``newest_step`` is where it resumes. Raises ``ClaimLost``.
        """
        values = _next_attempt(claim) | {
            "num_failures": claim.failures_after(newest_step),
            "progress_step": max(newest_step, claim.progress_step),
        }
        with self._database.write() as connection:
            change_job(connection, claim, values)
            insert_event(connection, claim.job.id, message, level=EventLevel.WARN)
            return read_again(connection, claim)

    def pause(self, claim: Claim, message: str) -> None:
        """Let a job rest whose trainer has gone, and give the claim up. Raises ``ClaimLost``."""
        values = {"owner": None, "lease_expires_at": 0, "handle": None, "estimated_finish": None}
        with self._database.write() as connection:
            move_job(connection, claim, JobStatus.PAUSED, values)
            insert_event(connection, claim.job.id, message)

    def settle(self, claim: Claim, settlement: Settlement) -> Job:
        """Let a job succeed: models, result files, status, name at once. Raises ``ClaimLost``."""
        job_id, model = claim.job.id, settlement.model
        values = {
            "fine_tuned_model": model.name,
            "trained_tokens": settlement.trained_tokens,
            "result_files": [file.id for file in settlement.result_files],
        }
        with self._database.write() as connection:
            finish_job(connection, claim, JobStatus.SUCCEEDED, values)
            for registered in (model, *settlement.checkpoints.values()):
                put_model(connection, registered)
            for file in settlement.result_files:
                connection.execute(FILES.insert().values(file_values(file)))
            keep_checkpoints(connection, job_id, settlement.checkpoints.keys())
            insert_event(connection, job_id, f"New fine-tuned model created: {model.name}")
            insert_event(connection, job_id, "The job has successfully completed")
            failpoints.reach("settle.commit")
            return read_job(connection, job_id)

    def fail(self, claim: Claim, error: JobError, details: Sequence[str] = ()) -> Job:
        """Let a job fail for good, with an event that says why, once. Raises ``ClaimLost``.

        ``details`` become events of their own before that one.
        """
        job_id = claim.job.id
        with self._database.write() as connection:
            values = {"error": dataclasses.asdict(error)}
            finish_job(connection, claim, JobStatus.FAILED, values)
            told = {"level": EventLevel.ERROR, "data": _data_of(error)}
            for detail in details:
                insert_event(connection, job_id, detail, **told)
            same = (EVENTS.c.job_id == job_id, EVENTS.c.message == error.message)
            if not connection.execute(EVENTS.update().where(*same).values(told)).rowcount:
                insert_event(connection, job_id, error.message, **told)
            return read_job(connection, job_id)

    def forget_handle(self, job_id: str, handle: str) -> None:
        """Note that the trainer of a job that is over is gone too."""
        change = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.handle == handle)
        with self._database.write() as connection:
            connection.execute(change.values(handle=None, owner=None, lease_expires_at=0))

    def _has(self, work: sa.ColumnElement[bool]) -> bool:
        """Look before taking the write lock: most polls find nothing."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(JOBS.c.seq).where(work).limit(1)) is not None


def _work(stage: Stage, now: float, max_running: int | None) -> sa.ColumnElement[bool]:
    """Return the condition under which a job has work of this stage and nobody holds it."""
    free = sa.and_(_WORK[stage], JOBS.c.lease_expires_at <= now)
    if max_running is None:
        return free
    jobs = JOBS.alias("running")
    about_to_run = sa.and_(
        jobs.c.status == JobStatus.QUEUED, jobs.c.owner.is_not(None), jobs.c.lease_expires_at > now
    )
    num_running = (
        sa.select(sa.func.count())
        .select_from(jobs)
        .where(sa.or_(jobs.c.status.in_([JobStatus.RUNNING, JobStatus.PAUSING]), about_to_run))
        .scalar_subquery()
    )
    return sa.and_(free, sa.or_(JOBS.c.status != JobStatus.QUEUED, num_running < max_running))


def _data_of(error: JobError) -> dict[str, Any]:
    """Return what OpenAI puts beside the message of an event that tells of an error."""
    return {"error_code": error.code, "error_param": error.param}


def _next_attempt(claim: Claim) -> dict[str, Any]:
    return {"attempt": claim.attempt + 1, "handle": LAUNCHING, "import_offset": 0}
