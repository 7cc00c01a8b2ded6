"""Rows of the tables as facts of the domain, and back."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from sintonia.domain.batches import Batch, BatchDraft, BatchProblem, BatchStatus, BatchTally
from sintonia.domain.files import FilePurpose, FileStatus, StoredFile
from sintonia.domain.jobs import (
    EventLevel,
    EventType,
    Job,
    JobCheckpoint,
    JobDraft,
    JobError,
    JobEvent,
    JobStatus,
)
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.domain.uploads import Upload, UploadDraft, UploadPart, UploadStatus

Row = sa.Row[Any]

_DRAFT = TypeAdapter(JobDraft)


def file_of(row: Row) -> StoredFile:
    """Return the file of a row of ``files``."""
    return StoredFile(
        id=row.id,
        filename=row.filename,
        purpose=FilePurpose(row.purpose),
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        created_at=row.created_at,
        status=FileStatus(row.status),
        status_details=row.status_details,
        expires_at=row.expires_at,
    )


def upload_of(row: Row) -> Upload:
    """Return the upload of a row of ``uploads``; past its time it is expired."""
    is_late = row.status == UploadStatus.PENDING and row.expires_at <= time.time()
    draft = {**row.draft, "purpose": FilePurpose(row.draft["purpose"])}
    return Upload(
        id=row.id,
        draft=UploadDraft(**draft),
        status=UploadStatus.EXPIRED if is_late else UploadStatus(row.status),
        created_at=row.created_at,
        expires_at=row.expires_at,
        part_ids=tuple(row.part_ids),
        file_id=row.file_id,
    )


def part_of(row: Row) -> UploadPart:
    """Return the part of a row of ``upload_parts``."""
    return UploadPart(
        id=row.id,
        upload_id=row.upload_id,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
    )


def job_of(row: Row) -> Job:
    """Return the job of a row of ``jobs`` with the column ``waiting_behind`` beside it."""
    return Job(
        id=row.id,
        draft=_DRAFT.validate_python(row.draft),
        status=JobStatus(row.status),
        seed=row.seed,
        created_at=row.created_at,
        finished_at=row.finished_at,
        estimated_finish=row.estimated_finish,
        fine_tuned_model=row.fine_tuned_model,
        trained_tokens=row.trained_tokens,
        result_files=tuple(row.result_files),
        error=None if row.error is None else JobError(**row.error),
        resolved=row.resolved,
        origins=row.origins,
        attempt=row.attempt,
        handle=row.handle,
        waiting_behind=row.waiting_behind,
        verdict=row.verdict,
    )


def event_of(row: Row) -> JobEvent:
    """Return the event of a row of ``job_events``."""
    return JobEvent(
        id=row.id,
        job_id=row.job_id,
        created_at=row.created_at,
        level=EventLevel(row.level),
        message=row.message,
        type=EventType(row.type),
        data=row.data,
    )


def checkpoint_of(row: Row) -> JobCheckpoint:
    """Return the checkpoint of a row of ``job_checkpoints``."""
    return JobCheckpoint(
        id=row.id,
        job_id=row.job_id,
        created_at=row.created_at,
        model=row.model,
        step=row.step,
        metrics=row.metrics,
    )


def batch_of(row: Row) -> Batch:
    """Return the batch of a row of ``batches``."""
    return Batch(
        id=row.id,
        draft=BatchDraft(**row.draft),
        status=BatchStatus(row.status),
        created_at=row.created_at,
        expires_at=row.expires_at,
        entered_at={BatchStatus(status): at for status, at in row.entered_at.items()},
        model=row.model,
        num_requests=row.num_requests,
        tally=BatchTally(**row.tally),
        problems=tuple(BatchProblem(**problem) for problem in row.problems),
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
    )


def model_of(row: Row) -> Model:
    """Return the model of a row of ``models``."""
    return Model(
        name=row.name,
        kind=ModelKind(row.kind),
        created_at=row.created_at,
        owned_by=row.owned_by,
        base=BaseRef(name=row.base_name, folder=row.base_folder, sha256=row.base_sha256),
        folder=row.folder,
        adapter_sha256=row.adapter_sha256,
        job_id=row.job_id,
        parent=row.parent,
    )


def file_values(file: StoredFile) -> dict[str, Any]:
    """Return the columns of a file."""
    return dataclasses.asdict(file)


def model_values(model: Model) -> dict[str, Any]:
    """Return the columns of a model."""
    values = dataclasses.asdict(model)
    base = values.pop("base")
    return values | {f"base_{name}": value for name, value in base.items()}
