"""The fence around a job: a write happens only while its claim holds.

Invariant: whoever does not hold the job, or holds one that has ended, changes nothing and gets
``ClaimLost``.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from sintonia.domain.jobs import JobStatus, check_transition, statuses_before
from sintonia.store.claims import Claim, ClaimLost, Stage
from sintonia.store.jobs import ACTIVE, select_jobs
from sintonia.store.rows import job_of
from sintonia.store.tables import JOBS

ENDED = tuple(status for status in JobStatus if status.is_terminal)


def held_by(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions under which a claim still allows writing."""
    return (
        JOBS.c.id == claim.job.id,
        JOBS.c.owner == claim.owner,
        JOBS.c.attempt == claim.attempt,
        JOBS.c.status.in_(ENDED if claim.stage is Stage.STOPPING else ACTIVE),
    )


def change_job(
    connection: sa.Connection,
    claim: Claim,
    values: dict[str, Any],
    *conditions: sa.ColumnElement[bool],
) -> None:
    """Change a job's row under its claim. Raises ``ClaimLost``."""
    change = JOBS.update().where(*held_by(claim), *conditions).values(values)
    if connection.execute(change).rowcount != 1:
        raise ClaimLost(claim.job.id)


def lock_job(connection: sa.Connection, claim: Claim) -> None:
    """Check the claim and keep others from changing the row meanwhile. Raises ``ClaimLost``."""
    change_job(connection, claim, {"owner": claim.owner})


def move_job(
    connection: sa.Connection, claim: Claim, status: JobStatus, values: dict[str, Any]
) -> None:
    """Change a job and its status. Raises ``ClaimLost``.

    A caller may have asked for a pause since the claim was read: what counts is the status that
    the row has now.
    """
    check_transition(claim.job.status, status)
    may_move = JOBS.c.status.in_(statuses_before(status))
    change_job(connection, claim, {"status": status, **values}, may_move)


def finish_job(
    connection: sa.Connection, claim: Claim, status: JobStatus, values: dict[str, Any]
) -> None:
    """Move to a terminal status and give the claim up. Raises ``ClaimLost``.

    The handle stays: a trainer that may be alive is found and stopped by it.
    """
    ended = {
        "finished_at": int(time.time()),
        "estimated_finish": None,
        "owner": None,
        "lease_expires_at": 0,
    }
    move_job(connection, claim, status, {**ended, **values})


def read_claim(connection: sa.Connection, job_id: str, stage: Stage, lease_seconds: float) -> Claim:
    """Return the claim that is in a job's row now."""
    row = connection.execute(select_jobs().where(JOBS.c.id == job_id)).one()
    return Claim(
        job=job_of(row),
        stage=stage,
        owner=row.owner,
        lease_seconds=lease_seconds,
        attempt=row.attempt,
        tuned_name=row.tuned_name,
        import_offset=row.import_offset,
        num_failures=row.num_failures,
        progress_step=row.progress_step,
    )


def read_again(connection: sa.Connection, claim: Claim) -> Claim:
    """Return a claim as it is in its job's row now."""
    return read_claim(connection, claim.job.id, claim.stage, claim.lease_seconds)
