"""``/v1/sintonia/distillations``: from stored completions to a training file, and to a job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from sintonia.api.bodies import JsonBody, json_answer, parse
from sintonia.api.distilling import DistilledFiles, distill, forget
from sintonia.api.headers import ignored_header
from sintonia.api.idempotency import OnceDep
from sintonia.api.new_jobs import new_job
from sintonia.api.openapi import json_body
from sintonia.api.schemas.distillations import (
    DistillationCounts,
    DistillationObject,
    DistillationRequest,
)
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.files import file_object
from sintonia.api.translate.jobs import job_object
from sintonia.domain.jobs import Job
from sintonia.errors import InvalidValue, SintoniaError

router = APIRouter(prefix="/v1/sintonia/distillations")

_OWN = ("training_file", "validation_file")


@router.post("", response_model=DistillationObject, openapi_extra=json_body(DistillationRequest))
async def create_distillation(body: JsonBody, services: ServicesDep, once: OnceDep) -> Response:
    """Write stored completions into a training file; with ``job``, begin to learn from it."""
    return await once.answer(body, lambda: _create(body, services))


def _create(body: JsonBody, services: Services) -> Response:
    request = parse(DistillationRequest, body)
    for name in _OWN:
        if (request.job or {}).get(name) is not None:
            raise InvalidValue(
                f"Invalid 'job.{name}': the file is the one made here. Leave it out.",
                param=f"job.{name}",
            )
    files = distill(request, services)
    if request.job is None:
        return json_answer(_shown(files, None, services))
    job, ignored = _job(request.job, files, services)
    return json_answer(_shown(files, job, services), ignored_header(ignored))


def _job(
    asked: Mapping[str, Any], files: DistilledFiles, services: Services
) -> tuple[Job, list[str]]:
    """Begin a job. What is refused leaves no file, and names the parameter within ``job``."""
    validation = files.validation and files.validation.id
    body = {**asked, "training_file": files.training.id, "validation_file": validation}
    try:
        return new_job(body, services)
    except SintoniaError as problem:
        forget(files, services)
        problem.param = f"job.{problem.param}" if problem.param else "job"
        raise


def _shown(files: DistilledFiles, job: Job | None, services: Services) -> DistillationObject:
    rows = files.rows
    return DistillationObject(
        created_at=int(time.time()),
        training_file=file_object(files.training),
        validation_file=files.validation and file_object(files.validation),
        counts=DistillationCounts(
            matched=rows.num_matched,
            written=rows.num_training + rows.num_validation,
            training=rows.num_training,
            validation=rows.num_validation,
            left_out=dict(rows.left_out),
        ),
        job=job and job_object(job, services.settings.organization),
    )
