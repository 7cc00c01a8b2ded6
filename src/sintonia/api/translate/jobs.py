"""Fine-tuning jobs: wire to draft, facts to wire."""

from __future__ import annotations

import dataclasses
from typing import Any

from sintonia.api.schemas.jobs import (
    CHECKPOINT_METRICS,
    CheckpointObject,
    EventObject,
    JobErrorObject,
    JobExtension,
    JobObject,
    JobRequest,
)
from sintonia.api.translate.methods import ignored_hyperparameters, method_object
from sintonia.domain.jobs import Job, JobCheckpoint, JobEvent
from sintonia.errors import UnsupportedParameter

IGNORED = (
    "prompt_loss_weight",
    "compute_classification_metrics",
    "classification_n_classes",
    "classification_positive_class",
    "classification_betas",
    "trainingType",
)
"""Parameters of older and of Azure's APIs that are accepted and do nothing here."""


def check_integrations(integrations: list[Any] | None) -> None:
    """Raise ``UnsupportedParameter`` unless no integration is asked for."""
    if integrations:
        raise UnsupportedParameter(
            "Parameter integrations: Weights & Biases and other integrations are not available "
            "here; metrics are in the job's events and in its result file. Leave it out.",
            param="integrations",
        )


def ignored_in(request: JobRequest) -> list[str]:
    """Return the parameters that were given and do nothing."""
    given = [name for name in IGNORED if getattr(request, name) is not None]
    return given + ignored_hyperparameters(request)


def job_object(job: Job, organization: str) -> JobObject:
    """Return a job as the wire shows it."""
    draft = job.draft
    method = method_object(job)
    return JobObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        estimated_finish=job.estimated_finish,
        model=draft.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=f"org-{organization}",
        status=job.status.value,
        hyperparameters=method.supervised and method.supervised.hyperparameters,
        method=method,
        training_file=draft.training_file,
        validation_file=draft.validation_file,
        result_files=list(job.result_files),
        trained_tokens=job.trained_tokens,
        error=_error(job),
        user_provided_suffix=draft.suffix,
        seed=job.seed,
        integrations=[],
        metadata=draft.metadata,
        sintonia=JobExtension(
            waiting_behind=job.waiting_behind,
            base_model=draft.base_model,
            origins=job.origins,
            asked=_asked(job),
            settings=_settings(job),
            attempt=job.attempt,
            truncate=draft.truncate,
            verdict=job.verdict,
        ),
    )


def event_object(event: JobEvent) -> EventObject:
    """Return an event as the wire shows it."""
    return EventObject(
        id=event.id,
        created_at=event.created_at,
        level=event.level.value,
        message=event.message,
        type=event.type.value,
        data=event.data,
    )


def checkpoint_object(checkpoint: JobCheckpoint) -> CheckpointObject:
    """Return a checkpoint as the wire shows it."""
    found = checkpoint.metrics
    metrics = {name: found[name] for name in CHECKPOINT_METRICS if name in found}
    return CheckpointObject(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=checkpoint.model,
        step_number=checkpoint.step,
        fine_tuning_job_id=checkpoint.job_id,
        metrics={"step": checkpoint.step, **metrics},
    )


def _settings(job: Job) -> dict[str, Any]:
    """Return every value once it is resolved, before that those that were chosen."""
    resolved: dict[str, Any] | None = (job.resolved or {}).get("settings")
    return resolved or _asked(job)


def _asked(job: Job) -> dict[str, Any]:
    """Return what was chosen, as it was."""
    return _without_none(dataclasses.asdict(job.draft.method.choices))


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    shown = {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return {name: value for name, value in shown.items() if value is not None}


def _error(job: Job) -> JobErrorObject:
    if job.error is None:
        return JobErrorObject()
    return JobErrorObject(code=job.error.code, message=job.error.message, param=job.error.param)
