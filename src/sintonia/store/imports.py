"""What a trainer said, written into a job's history inside the caller's transaction.

Invariant: a job has one metrics event and one checkpoint for a step, whatever was retried; the
last import of a step wins and keeps its place in the history.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, assert_never

import sqlalchemy as sa

from sintonia import ids
from sintonia.domain.jobs import EventType
from sintonia.domain.models import Model, ModelKind, checkpoint_name
from sintonia.store.claims import (
    CheckpointImport,
    Claim,
    EventImport,
    ImportBatch,
    StepImport,
)
from sintonia.store.jobs import has_event, insert_event
from sintonia.store.rows import model_values
from sintonia.store.tables import CHECKPOINTS, EVENTS, JOBS, MODELS

DERIVED = "derived"
"""The origin of a value that the machine chose."""


def import_batch(connection: sa.Connection, claim: Claim, batch: ImportBatch) -> None:
    """Write the records of a batch."""
    for record in batch.records:
        match record:
            case StepImport():
                _import_step(connection, claim.job.id, record)
            case CheckpointImport():
                _import_checkpoint(connection, claim, record)
            case EventImport():
                _import_event(connection, claim.job.id, record)
            case _:
                assert_never(record)
    _drop_old_checkpoints(connection, claim.job.id, batch)


def step_message(data: Mapping[str, Any]) -> str:
    """Return OpenAI's sentence for a step's metrics."""
    parts = [f"Step {data['step']}/{data['total_steps']}: training loss={data['train_loss']:.2f}"]
    if "valid_loss" in data:
        parts.append(f"validation loss={data['valid_loss']:.2f}")
    if "full_valid_loss" in data:
        parts.append(f"full validation loss={data['full_valid_loss']:.2f}")
    return ", ".join(parts)


def _import_step(connection: sa.Connection, job_id: str, record: StepImport) -> None:
    same = (EVENTS.c.job_id == job_id, EVENTS.c.step == record.step)
    message, data = step_message(record.data), dict(record.data)
    if connection.execute(EVENTS.update().where(*same).values(message=message, data=data)).rowcount:
        return
    insert_event(
        connection,
        job_id,
        message,
        data=data,
        type=EventType.METRICS,
        step=record.step,
        created_at=int(record.time),
    )


def _import_checkpoint(connection: sa.Connection, claim: Claim, record: CheckpointImport) -> None:
    assert claim.tuned_name is not None, "a job has its model's name before it runs"
    if record.model is not None:
        put_model(connection, record.model)
    same = (CHECKPOINTS.c.job_id == claim.job.id, CHECKPOINTS.c.step == record.step)
    metrics = dict(record.metrics)
    if connection.execute(CHECKPOINTS.update().where(*same).values(metrics=metrics)).rowcount:
        return
    name = checkpoint_name(claim.tuned_name, record.step)
    row = {
        "id": ids.new_id(ids.CHECKPOINT),
        "job_id": claim.job.id,
        "created_at": int(record.time),
        "model": name,
        "step": record.step,
        "metrics": metrics,
    }
    connection.execute(CHECKPOINTS.insert().values(row))
    message = f"Checkpoint created at step {record.step} with Snapshot ID: {name}"
    insert_event(connection, claim.job.id, message, created_at=int(record.time))


def _import_event(connection: sa.Connection, job_id: str, record: EventImport) -> None:
    """Add what a trainer said, once: attempts repeat themselves."""
    if not has_event(connection, job_id, record.message):
        columns = {"level": record.level, "created_at": int(record.time)}
        insert_event(connection, job_id, record.message, **columns)
    if record.verdict is not None:
        change = JOBS.update().where(JOBS.c.id == job_id)
        connection.execute(change.values(verdict=dict(record.verdict)))
    if record.settled is not None:
        _settle(connection, job_id, record.settled)


def _settle(connection: sa.Connection, job_id: str, values: Mapping[str, Any]) -> None:
    """Let a job show what its settings became; what they were before is in its draft."""
    of_job = JOBS.c.id == job_id
    row = connection.execute(sa.select(JOBS.c.resolved, JOBS.c.origins).where(of_job)).one()
    resolved, origins = dict(row.resolved or {}), dict(row.origins or {})
    settings = resolved.get("settings", {})
    changed = {name: value for name, value in values.items() if settings.get(name) != value}
    resolved["settings"] = {**settings, **changed}
    origins |= dict.fromkeys(changed, DERIVED)
    connection.execute(JOBS.update().where(of_job).values(resolved=resolved, origins=origins))


def put_model(connection: sa.Connection, model: Model) -> None:
    """Register a model, or what it became when the step was trained again. A deleted one stays."""
    values = model_values(model)
    same = MODELS.c.name == model.name
    if not connection.execute(MODELS.update().where(same).values(values)).rowcount:
        connection.execute(MODELS.insert().values(values))


def keep_checkpoints(connection: sa.Connection, job_id: str, steps: Collection[int]) -> None:
    """Forget all checkpoints of a job but those of ``steps``, and the models made of them."""
    of_job = CHECKPOINTS.c.job_id == job_id
    connection.execute(CHECKPOINTS.delete().where(of_job, CHECKPOINTS.c.step.not_in(list(steps))))
    is_gone = (
        MODELS.c.job_id == job_id,
        MODELS.c.kind == ModelKind.CHECKPOINT,
        MODELS.c.name.not_in(sa.select(CHECKPOINTS.c.model).where(of_job)),
        MODELS.c.deleted_at.is_(None),
    )
    connection.execute(MODELS.update().where(*is_gone).values(deleted_at=int(time.time())))


def _drop_old_checkpoints(connection: sa.Connection, job_id: str, batch: ImportBatch) -> None:
    """Keep what the trainer keeps: the newest, and with early stopping the best."""
    told = [record.kept for record in batch.records if isinstance(record, CheckpointImport)]
    if not told:
        return
    if told[-1]:
        keep_checkpoints(connection, job_id, told[-1])
        return
    of_job = CHECKPOINTS.c.job_id == job_id
    newest = sa.select(CHECKPOINTS.c.step).where(of_job).order_by(CHECKPOINTS.c.step.desc())
    steps = connection.scalars(newest.limit(batch.keep_checkpoints))
    keep_checkpoints(connection, job_id, list(steps))
