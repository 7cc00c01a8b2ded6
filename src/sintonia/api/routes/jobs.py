"""``/v1/fine_tuning/jobs``."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from sintonia.api.bodies import JsonBody
from sintonia.api.headers import ignored_header
from sintonia.api.new_jobs import new_job
from sintonia.api.openapi import json_body
from sintonia.api.pagination import After, cursor_page, list_page
from sintonia.api.schemas.jobs import CheckpointObject, EventObject, JobObject, JobRequest
from sintonia.api.schemas.wire import CursorPage, ListPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.jobs import checkpoint_object, event_object, job_object
from sintonia.domain.jobs import Job
from sintonia.errors import InvalidValue

router = APIRouter(prefix="/v1/fine_tuning/jobs")

_METADATA = re.compile(r"^metadata\[(.*)\]$", re.DOTALL)


@router.post("", openapi_extra=json_body(JobRequest))
def create_job(body: JsonBody, services: ServicesDep, response: Response) -> JobObject:
    """Store a job. It is checked and answered at once; a worker takes it from there."""
    job, ignored = new_job(body, services)
    response.headers.update(ignored_header(ignored))
    return _shown(job, services)


@router.get("")
def list_jobs(
    request: Request,
    services: ServicesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListPage[JobObject]:
    """List jobs, the newest first; ``metadata[KEY]=VALUE`` keeps those that have the pair."""
    page = services.store.jobs.list(after=after, limit=limit, metadata=_metadata_filter(request))
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


def _metadata_filter(request: Request) -> dict[str, str] | None:
    """Return the pairs asked for; an empty mapping means jobs without any metadata."""
    given = request.query_params
    if "metadata" in given:
        if given["metadata"] != "null":
            raise InvalidValue(
                "Invalid 'metadata': filter with metadata[KEY]=VALUE, or with metadata=null for "
                "jobs without metadata.",
                param="metadata",
            )
        return {}
    pairs = {m[1]: value for key, value in given.items() if (m := _METADATA.match(key))}
    return pairs or None
