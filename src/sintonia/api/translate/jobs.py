"""Fine-tuning jobs: wire to draft, facts to wire."""

from __future__ import annotations

import dataclasses
from typing import Any

from sintonia.api.schemas.jobs import (
    CheckpointMetrics,
    CheckpointObject,
    EventObject,
    ExtensionRequest,
    HyperparametersObject,
    HyperparametersRequest,
    JobErrorObject,
    JobExtension,
    JobObject,
    JobRequest,
    MethodObject,
    SupervisedObject,
)
from sintonia.domain.choices import Choices
from sintonia.domain.jobs import Job, JobCheckpoint, JobEvent
from sintonia.domain.methods import AUTO, Hyperparameters, Method
from sintonia.errors import InvalidValue, UnsupportedParameter

IGNORED = (
    "prompt_loss_weight",
    "compute_classification_metrics",
    "classification_n_classes",
    "classification_positive_class",
    "classification_betas",
    "trainingType",
)
"""Parameters of older and of Azure's APIs that are accepted and do nothing here."""
IGNORED_HYPERPARAMETERS = (*IGNORED[:5], "seed")
"""The same, inside ``hyperparameters``."""


def method_of(request: JobRequest) -> Method:
    """Return the method and hyperparameters, from whichever spelling the caller used.

    Raises ``UnsupportedParameter`` for a method that is not built and ``InvalidValue`` when
    the two spellings disagree.
    """
    nested = None
    if request.method is not None:
        _check_method(request.method.type)
        supervised = request.method.supervised
        nested = supervised.hyperparameters if supervised else None
    outer = request.hyperparameters
    if nested is not None and outer is not None and _chosen(nested) != _chosen(outer):
        raise InvalidValue(
            "Parameters hyperparameters and method.supervised.hyperparameters disagree. "
            "Give one of them; the first is the older spelling of the second.",
            param="hyperparameters",
        )
    return Method(hyperparameters=_chosen(nested or outer), choices=_choices(request.sintonia))


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
    for inner in (request.hyperparameters, _nested(request)):
        if inner is not None:
            given += [n for n in IGNORED_HYPERPARAMETERS if getattr(inner, n) is not None]
    return given


def job_object(job: Job, organization: str) -> JobObject:
    """Return a job as the wire shows it."""
    draft = job.draft
    hyperparameters = _hyperparameters(job)
    return JobObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        estimated_finish=job.estimated_finish,
        model=draft.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=f"org-{organization}",
        status=job.status.value,
        hyperparameters=hyperparameters,
        method=MethodObject(
            type=draft.method.type.value,
            supervised=SupervisedObject(hyperparameters=hyperparameters),
        ),
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
            settings=_settings(job),
            attempt=job.attempt,
            truncate=draft.truncate,
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
    known = CheckpointMetrics.model_fields
    metrics = {name: value for name, value in checkpoint.metrics.items() if name in known}
    return CheckpointObject(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=checkpoint.model,
        step_number=checkpoint.step,
        fine_tuning_job_id=checkpoint.job_id,
        metrics=CheckpointMetrics(**{"step": checkpoint.step, **metrics}),
    )


def _check_method(method: str) -> None:
    if method != "supervised":
        raise UnsupportedParameter(
            f"Parameter method.type {method!r}: only 'supervised' is available here yet. "
            "Leave method out or use that type.",
            param="method.type",
        )


def _nested(request: JobRequest) -> HyperparametersRequest | None:
    supervised = request.method.supervised if request.method else None
    return supervised.hyperparameters if supervised else None


def _chosen(given: HyperparametersRequest | None) -> Hyperparameters:
    """Return what was chosen; ``null`` and absent mean ``auto``."""
    if given is None:
        return Hyperparameters()
    return Hyperparameters(
        n_epochs=given.n_epochs or AUTO,
        batch_size=given.batch_size or AUTO,
        learning_rate_multiplier=given.learning_rate_multiplier or AUTO,
    )


def _choices(given: ExtensionRequest | None) -> Choices:
    """Return what of the ``sintonia`` object decides how a job trains."""
    if given is None:
        return Choices()
    return Choices(**{f.name: getattr(given, f.name) for f in dataclasses.fields(Choices)})


def _settings(job: Job) -> dict[str, Any]:
    """Return every value once it is resolved, before that those that were chosen."""
    resolved: dict[str, Any] | None = (job.resolved or {}).get("settings")
    return resolved or _without_none(dataclasses.asdict(job.draft.method.choices))


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    shown = {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return {name: value for name, value in shown.items() if value is not None}


def _hyperparameters(job: Job) -> HyperparametersObject:
    asked, resolved = job.draft.method.hyperparameters, job.resolved or {}
    return HyperparametersObject(
        n_epochs=resolved.get("n_epochs", asked.n_epochs),
        batch_size=resolved.get("batch_size", asked.batch_size),
        learning_rate_multiplier=resolved.get(
            "learning_rate_multiplier", asked.learning_rate_multiplier
        ),
    )


def _error(job: Job) -> JobErrorObject:
    if job.error is None:
        return JobErrorObject()
    return JobErrorObject(code=job.error.code, message=job.error.message, param=job.error.param)
