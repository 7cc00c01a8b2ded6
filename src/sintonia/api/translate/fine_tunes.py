"""Jobs as OpenAI's first API showed them: its requests to those of today, facts to its wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sintonia import ids
from sintonia.api.schemas.files import FileObject
from sintonia.api.schemas.fine_tunes import (
    FineTuneEvent,
    FineTuneObject,
    FineTuneRequest,
    HyperparamsObject,
)
from sintonia.api.translate.methods import hyperparameters_object
from sintonia.domain.jobs import Job, JobEvent, JobStatus
from sintonia.domain.methods import AUTO

_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
_STATUSES: Mapping[JobStatus, Any] = {
    JobStatus.VALIDATING_FILES: "pending",
    JobStatus.QUEUED: "pending",
    JobStatus.RUNNING: "running",
    JobStatus.PAUSING: "running",
    JobStatus.PAUSED: "pending",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


@dataclass(frozen=True)
class JobFiles:
    """The files of a job that still exist."""

    training: Sequence[FileObject]
    validation: Sequence[FileObject]
    results: Sequence[FileObject]


def job_body(request: FineTuneRequest) -> dict[str, Any]:
    """Return the body of ``POST /v1/fine_tuning/jobs`` that asks for the same."""
    given = request.model_dump(exclude_none=True)
    chosen = {name: given.pop(name) for name in _HYPERPARAMETERS if name in given}
    return {**given, "hyperparameters": chosen}


def fine_tune_id(job_id: str) -> str:
    """Return the id under which the first API shows a job."""
    return ids.LEGACY_JOB + job_id.removeprefix(ids.JOB) if job_id.startswith(ids.JOB) else job_id


def job_id_of(fine_tune: str) -> str:
    """Return the job's own id for the id of a fine-tune; a job's own id stays."""
    if not fine_tune.startswith(ids.LEGACY_JOB):
        return fine_tune
    return ids.JOB + fine_tune.removeprefix(ids.LEGACY_JOB)


def fine_tune_object(
    job: Job, files: JobFiles, organization: str, events: Sequence[JobEvent] | None = None
) -> FineTuneObject:
    """Return a job as the first API showed it, with ``events`` (oldest first) if they are given."""
    last = events[-1].created_at if events else job.finished_at or job.created_at
    return FineTuneObject(
        id=fine_tune_id(job.id),
        model=job.draft.model,
        created_at=job.created_at,
        updated_at=last,
        fine_tuned_model=job.fine_tuned_model,
        hyperparams=_hyperparams(job),
        organization_id=f"org-{organization}",
        status=_STATUSES[job.status],
        training_files=list(files.training),
        validation_files=list(files.validation),
        result_files=list(files.results),
        events=None if events is None else [fine_tune_event(event) for event in events],
    )


def fine_tune_event(event: JobEvent) -> FineTuneEvent:
    """Return an event as the first API showed it."""
    return FineTuneEvent(
        created_at=event.created_at, level=event.level.value, message=event.message
    )


def _hyperparams(job: Job) -> HyperparamsObject:
    shown = hyperparameters_object(job)
    values = {name: getattr(shown, name) for name in _HYPERPARAMETERS}
    return HyperparamsObject(**{n: None if v == AUTO else v for n, v in values.items()})
