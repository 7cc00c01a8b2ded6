"""``/v1/fine_tuning/jobs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from sintonia.api.bodies import JsonBody, json_answer
from sintonia.api.headers import ignored_header
from sintonia.api.idempotency import OnceDep
from sintonia.api.new_jobs import new_job
from sintonia.api.openapi import json_body
from sintonia.api.pagination import After, cursor_page, list_page
from sintonia.api.queries import MetadataFilter
from sintonia.api.schemas.jobs import (
    AnyCheckpointObject,
    AnyEventObject,
    AnyJobObject,
    JobObject,
    JobRequest,
)
from sintonia.api.schemas.wire import CursorPage, ListPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.imported import cannot_change, imported_job_object, imported_line
from sintonia.api.translate.jobs import checkpoint_object, event_object, job_object
from sintonia.domain.imported import ImportedJob, Json
from sintonia.domain.jobs import Job, JobCheckpoint, JobEvent
from sintonia.errors import JobNotFound
from sintonia.store import Page

router = APIRouter(prefix="/v1/fine_tuning/jobs")


@router.post("", response_model=JobObject, openapi_extra=json_body(JobRequest))
async def create_job(body: JsonBody, services: ServicesDep, once: OnceDep) -> Response:
    """Store a job. It is checked and answered at once; a worker takes it from there."""
    return await once.answer(body, lambda: _create(body, services))


def _create(body: JsonBody, services: Services) -> Response:
    job, ignored = new_job(body, services)
    return json_answer(_shown(job, services), ignored_header(ignored))


@router.get("")
def list_jobs(
    services: ServicesDep,
    metadata: MetadataFilter,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListPage[AnyJobObject]:
    """List jobs, the newest first; ``metadata[KEY]=VALUE`` keeps those that have the pair."""
    page = services.store.imported.list_with_own(after=after, limit=limit, metadata=metadata)
    return list_page(page, lambda job: _any_shown(job, services))


@router.get("/{job_id}")
def retrieve_job(job_id: str, services: ServicesDep) -> AnyJobObject:
    """Return one job."""
    store = services.store
    job: Job | ImportedJob = _either(
        lambda: store.jobs.get(job_id), lambda: store.imported.get(job_id)
    )
    return _any_shown(job, services)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep) -> JobObject:
    """End a job that waits or runs."""
    return _shown(_ordered(services.store.jobs.cancel, job_id, "cancelled", services), services)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, services: ServicesDep) -> JobObject:
    """Let a running job save its work and rest; it is ``pausing`` until that is done."""
    return _shown(_ordered(services.store.jobs.pause, job_id, "paused", services), services)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, services: ServicesDep) -> JobObject:
    """Put a paused job back into the queue."""
    return _shown(_ordered(services.store.jobs.resume, job_id, "resumed", services), services)


@router.get("/{job_id}/events")
@router.post("/{job_id}/events")
def list_events(
    job_id: str,
    services: ServicesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 20,
) -> ListPage[AnyEventObject]:
    """List what happened to a job, the newest first."""
    own, imported = services.store.jobs, services.store.imported
    page: Page[JobEvent | Json] = _either(
        lambda: own.events(job_id, after=after, limit=limit),
        lambda: imported.events(job_id, after=after, limit=limit),
    )
    return list_page(page, lambda e: imported_line(e) if isinstance(e, dict) else event_object(e))


@router.get("/{job_id}/checkpoints")
@router.post("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    services: ServicesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> CursorPage[AnyCheckpointObject]:
    """List the models saved at epoch ends, the highest step first."""
    own, imported = services.store.jobs, services.store.imported
    page: Page[JobCheckpoint | Json] = _either(
        lambda: own.checkpoints(job_id, after=after, limit=limit),
        lambda: imported.checkpoints(job_id, after=after, limit=limit),
    )
    return cursor_page(
        page,
        lambda c: imported_line(c) if isinstance(c, dict) else checkpoint_object(c),
        lambda c: str(c["id"]) if isinstance(c, dict) else c.id,
    )


def _either(own: Callable[[], Any], imported: Callable[[], Any]) -> Any:
    """Return what is asked of a job of ours, else of one that was brought over.

    Raises ``JobNotFound`` when it is neither.
    """
    try:
        return own()
    except JobNotFound:
        return imported()


def _ordered(order: Callable[[str], Job], job_id: str, done: str, services: Services) -> Job:
    """Give a job an order. Raises ``InvalidRequest`` for one that was brought over."""
    try:
        return order(job_id)
    except JobNotFound:
        raise cannot_change(services.store.imported.get(job_id), done) from None


def _any_shown(job: Job | ImportedJob, services: Services) -> AnyJobObject:
    return imported_job_object(job) if isinstance(job, ImportedJob) else _shown(job, services)


def _shown(job: Job, services: Services) -> JobObject:
    return job_object(job, services.settings.organization)
