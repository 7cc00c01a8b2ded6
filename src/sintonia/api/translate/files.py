"""Files: facts to wire."""

from __future__ import annotations

from sintonia.api.azure import AzureCall
from sintonia.api.schemas.files import FileObject
from sintonia.domain.files import FilePurpose, StoredFile
from sintonia.jobs.settle import RESULT_NAME

AZURE_RESULT_NAME = "results.csv"
_AZURE_BEFORE_2024 = {"processed": "succeeded", "error": "failed"}


def file_object(file: StoredFile, azure: AzureCall | None = None) -> FileObject:
    """Return a file as the wire shows it, for ``azure`` in the words of its version."""
    status = file.status.value
    words = _AZURE_BEFORE_2024 if azure and azure.is_before_2024 else {}
    renamed = azure is not None and is_step_metrics(file)
    return FileObject(
        id=file.id,
        bytes=file.size_bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=AZURE_RESULT_NAME if renamed else file.filename,
        purpose=file.purpose.value,
        status=words.get(status, status),
        status_details=file.status_details,
    )


def is_step_metrics(file: StoredFile) -> bool:
    """Tell whether a file is the curve of a job, step by step."""
    return file.purpose is FilePurpose.FINE_TUNE_RESULTS and file.filename == RESULT_NAME
