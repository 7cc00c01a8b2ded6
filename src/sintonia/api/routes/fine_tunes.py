"""``/v1/fine-tunes``: jobs for clients of OpenAI's first fine-tuning API (openai before 1.0).

The same jobs as under ``/v1/fine_tuning/jobs``: one made here is found there, and the other way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Response

from sintonia.api.bodies import JsonBody, parse
from sintonia.api.following import follow_events
from sintonia.api.headers import ignored_header
from sintonia.api.new_jobs import new_job
from sintonia.api.openapi import json_body
from sintonia.api.schemas.files import FileObject
from sintonia.api.schemas.fine_tunes import (
    FineTuneEventList,
    FineTuneList,
    FineTuneObject,
    FineTuneRequest,
)
from sintonia.api.services import Services, ServicesDep
from sintonia.api.shown_files import ShowFile
from sintonia.api.sse import EventStream
from sintonia.api.translate.fine_tunes import (
    JobFiles,
    fine_tune_event,
    fine_tune_object,
    job_body,
    job_id_of,
)
from sintonia.domain.jobs import Job, JobEvent
from sintonia.errors import FileNotFound, JobNotFound

router = APIRouter(prefix="/v1/fine-tunes")

_ALL = 100_000
"""More than a server has: the first API had no pages."""


@router.post("", openapi_extra=json_body(FineTuneRequest))
def create_fine_tune(
    body: JsonBody, services: ServicesDep, show: ShowFile, response: Response
) -> FineTuneObject:
    """Store a job."""
    job, ignored = new_job(job_body(parse(FineTuneRequest, body)), services)
    response.headers.update(ignored_header(ignored))
    return _with_events(job, services, show)


@router.get("")
def list_fine_tunes(services: ServicesDep, show: ShowFile) -> FineTuneList:
    """List all jobs, the oldest first, without their events."""
    organization = services.settings.organization
    jobs = reversed(services.store.jobs.list(limit=_ALL).items)
    shown = [fine_tune_object(job, _files(job, services, show), organization) for job in jobs]
    return FineTuneList(data=shown)


@router.get("/{fine_tune_id}")
def retrieve_fine_tune(fine_tune_id: str, services: ServicesDep, show: ShowFile) -> FineTuneObject:
    """Return one job with its events; its id in the newer API will do too."""
    return _with_events(_job(fine_tune_id, services), services, show)


@router.post("/{fine_tune_id}/cancel")
def cancel_fine_tune(fine_tune_id: str, services: ServicesDep, show: ShowFile) -> FineTuneObject:
    """End a job that waits or runs."""
    job = services.store.jobs.cancel(_job(fine_tune_id, services).id)
    return _with_events(job, services, show)


@router.get("/{fine_tune_id}/events", response_model=FineTuneEventList)
async def list_fine_tune_events(
    fine_tune_id: str, services: ServicesDep, stream: bool = False
) -> FineTuneEventList | EventStream:
    """List a job's events, the oldest first, or send them as they happen until it has ended."""
    job = await to_thread.run_sync(_job, fine_tune_id, services)
    if stream:
        lines = _lines(services, job.id)
        return EventStream(lines, lines, {})
    found = await to_thread.run_sync(lambda: _events(job, services))
    return FineTuneEventList(data=[fine_tune_event(event) for event in found])


async def _lines(services: Services, job_id: str) -> AsyncGenerator[Mapping[str, Any] | None, None]:
    async for event in follow_events(services.store, job_id):
        yield None if event is None else fine_tune_event(event).model_dump(mode="json")


def _job(fine_tune_id: str, services: Services) -> Job:
    """Find a job by its id in either API. Raises ``JobNotFound`` that names what was asked for."""
    with suppress(JobNotFound):
        return services.store.jobs.get(fine_tune_id)
    with suppress(JobNotFound):
        return services.store.jobs.get(job_id_of(fine_tune_id))
    raise JobNotFound(fine_tune_id)


def _events(job: Job, services: Services) -> list[JobEvent]:
    return services.store.jobs.events(job.id, limit=_ALL, order="asc").items


def _with_events(job: Job, services: Services, show: ShowFile) -> FineTuneObject:
    files = _files(job, services, show)
    return fine_tune_object(job, files, services.settings.organization, _events(job, services))


def _files(job: Job, services: Services, show: ShowFile) -> JobFiles:
    draft = job.draft
    validation = [] if draft.validation_file is None else [draft.validation_file]
    return JobFiles(
        training=_shown([draft.training_file], services, show),
        validation=_shown(validation, services, show),
        results=_shown(job.result_files, services, show),
    )


def _shown(file_ids: Iterable[str], services: Services, show: ShowFile) -> list[FileObject]:
    """Return the files that still exist."""
    found = []
    for file_id in file_ids:
        with suppress(FileNotFound):
            found.append(show(services.store.files.get(file_id)))
    return found
