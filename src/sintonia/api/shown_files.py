"""Files as the caller of a request knows them: OpenAI's form, or Azure's on a path of Azure's.

Azure's clients look for other columns in a job's result file, and those before 2024 for other
words when a file is ready.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from sintonia.api.azure import azure_call
from sintonia.api.schemas.files import FileObject
from sintonia.api.services import Services
from sintonia.api.translate.files import file_object, is_step_metrics
from sintonia.domain.files import StoredFile
from sintonia.jobs.settle import result_table

AZURE_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_mean_token_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "validation_mean_token_accuracy": "valid_mean_token_accuracy",
    "full_valid_loss": "full_valid_loss",
    "full_valid_mean_token_accuracy": "full_valid_mean_token_accuracy",
}
"""Azure's columns of the result file since 2024 and the metric behind each."""


def _shown_to(request: Request) -> Callable[[StoredFile], FileObject]:
    return partial(file_object, azure=azure_call(request.scope))


ShowFile = Annotated[Callable[[StoredFile], FileObject], Depends(_shown_to)]
"""Parameter type of a route that shows files."""


def content_for_azure(file: StoredFile, request: Request, services: Services) -> bytes | None:
    """Return what a caller in one of Azure's forms gets instead of a file's own content.

    That is the result file in Azure's columns, made of the job's metrics. ``None`` means that
    the content is what was stored, as for every other file and caller.
    """
    if azure_call(request.scope) is None or not is_step_metrics(file):
        return None
    job = services.store.jobs.of_result_file(file.id)
    metrics = services.store.jobs.metrics(job.id) if job else []
    return result_table(metrics, AZURE_COLUMNS) if metrics else None
