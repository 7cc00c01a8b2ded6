"""``/v1/sintonia/distillations``: from stored completions to a training file, and to a job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

from sintonia.api.bodies import JsonBody, parse
from sintonia.api.distilling import DistilledFiles, distill, forget
from sintonia.api.headers import ignored_header
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
from sintonia.errors import InvalidRequest, InvalidValue, SintoniaError

router = APIRouter(prefix="/v1/sintonia/distillations")

_OWN = ("training_file", "validation_file")


@router.post("", openapi_extra=json_body(DistillationRequest))
def create_distillation(
    body: JsonBody, services: ServicesDep, response: Response
) -> DistillationObject:
    """Write stored completions into a training file; with ``job``, begin to learn from it."""
    request = parse(DistillationRequest, body)
    for name in _OWN:
        if name in (request.job or {}):
            raise InvalidValue(
                f"Invalid 'job.{name}': the file is the one made here. Leave it out.",
                param=f"job.{name}",
            )
    files = distill(request, services)
    job = None
    if request.job is not None:
        job, ignored = _job(request.job, files, services)
        response.headers.update(ignored_header(ignored))
    return _shown(files, job, services)


def _job(
    asked: Mapping[str, Any], files: DistilledFiles, services: Services
) -> tuple[Job, list[str]]:
    """Begin a job. What is refused leaves no file, and names the parameter within ``job``."""
    validation = files.validation and files.validation.id
    body = {**asked, "training_file": files.training.id, "validation_file": validation}
    try:
        return new_job(body, services)
    except InvalidRequest as problem:
        forget(files, services)
        param = f"job.{problem.param}" if problem.param else "job"
        raise type(problem)(problem.message, param=param, code=problem.code) from None
    except SintoniaError:
        forget(files, services)
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
