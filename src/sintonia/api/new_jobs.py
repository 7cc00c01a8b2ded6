"""From the body of a request to a stored job, for whichever endpoint it came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sintonia.api.bodies import parse_what_can_be
from sintonia.api.checks import Trainable, check_data_file, problems_of_settings, trainable
from sintonia.api.schemas.jobs import JobRequest
from sintonia.api.services import Services
from sintonia.api.translate.jobs import check_integrations, ignored_in
from sintonia.api.translate.methods import method_of
from sintonia.domain.jobs import Job, JobDraft
from sintonia.domain.methods import Method
from sintonia.errors import Problems


def new_job(body: Mapping[str, Any], services: Services) -> tuple[Job, list[str]]:
    """Store a job that is checked; return it with the parameters that were given and do nothing.

    Raises ``InvalidRequest``, one of its kinds, that names all that is wrong.
    """
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
    return services.store.jobs.create(draft), ignored_in(request)


def _checked(body: Mapping[str, Any], services: Services) -> tuple[JobRequest, Method, Trainable]:
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
