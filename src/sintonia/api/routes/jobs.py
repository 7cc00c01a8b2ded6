"""``/v1/fine_tuning/jobs``."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Query
from fastapi.responses import Response

from sintonia.api.bodies import JsonBody, json_answer, parse_what_can_be
from sintonia.api.checks import Trainable, check_data_file, problems_of_settings, trainable
from sintonia.api.headers import ignored_header
from sintonia.api.idempotency import OnceDep
from sintonia.api.pagination import After, cursor_page, list_page
from sintonia.api.queries import MetadataFilter
from sintonia.api.schemas.jobs import CheckpointObject, EventObject, JobObject, JobRequest
from sintonia.api.schemas.wire import CursorPage, ListPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.jobs import (
    check_integrations,
    checkpoint_object,
    event_object,
    ignored_in,
    job_object,
)
from sintonia.api.translate.methods import method_of
from sintonia.domain.jobs import Job, JobDraft
from sintonia.domain.methods import Method
from sintonia.errors import Problems

router = APIRouter(prefix="/v1/fine_tuning/jobs")


@router.post("", response_model=JobObject)
async def create_job(body: JsonBody, services: ServicesDep, once: OnceDep) -> Response:
    """Store a job. It is checked and answered at once; a worker takes it from there."""
    return await once.answer(body, lambda: _create(body, services))


def _create(body: JsonBody, services: Services) -> Response:
    request, method, model = _checked(body, services)
    draft = JobDraft(
        model=model.shown,
        base_model=model.base,
        parent_model=model.parent,
        training_file=request.training_file,
        validation_file=request.validation_file,
        method=method,
        suffix=request.suffix,
        seed=request.seed,
        metadata=request.metadata,
        truncate=bool(request.sintonia and request.sintonia.truncate),
    )
    job = _shown(services.store.jobs.create(draft), services)
    return json_answer(job, ignored_header(ignored_in(request)))


def _checked(body: JsonBody, services: Services) -> tuple[JobRequest, Method, Trainable]:
    """Return what a job is made of. Raises ``InvalidRequest`` that names all that is wrong."""
    problems = Problems()
    request, method, model = parse_what_can_be(JobRequest, body, problems), None, None
    if request is not None:
        with problems.collecting():
            method = method_of(request)
        with problems.collecting():
            check_integrations(request.integrations)
        with problems.collecting():
            model = trainable(request.model, services)
        problems.found += problems_of_settings(request, method, model, services)
        for param in ("training_file", "validation_file"):
            with problems.collecting():
                check_data_file(getattr(request, param), param, services)
    problems.raise_if_any()
    found = (request, method, model)
    assert None not in found, "without a problem all of it is there"
    return cast("tuple[JobRequest, Method, Trainable]", found)


@router.get("")
def list_jobs(
    services: ServicesDep,
    metadata: MetadataFilter,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListPage[JobObject]:
    """List jobs, the newest first; ``metadata[KEY]=VALUE`` keeps those that have the pair."""
    page = services.store.jobs.list(after=after, limit=limit, metadata=metadata)
    return list_page(page, lambda job: _shown(job, services))


@router.get("/{job_id}")
def retrieve_job(job_id: str, services: ServicesDep) -> JobObject:
    """Return one job."""
    return _shown(services.store.jobs.get(job_id), services)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep) -> JobObject:
    """End a job that waits or runs."""
    return _shown(services.store.jobs.cancel(job_id), services)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, services: ServicesDep) -> JobObject:
    """Let a running job save its work and rest; it is ``pausing`` until that is done."""
    return _shown(services.store.jobs.pause(job_id), services)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, services: ServicesDep) -> JobObject:
    """Put a paused job back into the queue."""
    return _shown(services.store.jobs.resume(job_id), services)


@router.get("/{job_id}/events")
@router.post("/{job_id}/events")
def list_events(
    job_id: str,
    services: ServicesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 20,
) -> ListPage[EventObject]:
    """List what happened to a job, the newest first."""
    page = services.store.jobs.events(job_id, after=after, limit=limit)
    return list_page(page, event_object)


@router.get("/{job_id}/checkpoints")
@router.post("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    services: ServicesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> CursorPage[CheckpointObject]:
    """List the models saved at epoch ends, the highest step first."""
    page = services.store.jobs.checkpoints(job_id, after=after, limit=limit)
    return cursor_page(page, checkpoint_object, lambda checkpoint: checkpoint.id)


def _shown(job: Job, services: Services) -> JobObject:
    return job_object(job, services.settings.organization)
