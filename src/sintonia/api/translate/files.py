"""Files and uploads: wire to facts, and facts to wire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sintonia.api.azure import AzureCall
from sintonia.api.schemas.files import (
    ExpiresAfter,
    FileObject,
    PartObject,
    UploadObject,
    UploadRequest,
)
from sintonia.domain.files import FilePurpose, StoredFile
from sintonia.domain.uploads import Upload, UploadDraft, UploadPart
from sintonia.jobs.settle import RESULT_NAME

AZURE_RESULT_NAME = "results.csv"
_AZURE_BEFORE_2024 = {"processed": "succeeded", "error": "failed"}

_INNER = re.compile(r"^(\w+)\[(\w+)\]$")
_INTEGER = re.compile(r"^-?\d{1,18}$", re.ASCII)


def form_object(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return a form as the object that JSON would have: ``a[b]`` lies in ``a``; numbers there."""
    found: dict[str, Any] = {}
    for name, text in fields.items():
        inner = _INNER.match(name)
        if inner is None:
            found[name] = text
            continue
        outer = found.setdefault(inner[1], {})
        if isinstance(outer, dict):
            outer[inner[2]] = int(text) if _INTEGER.match(text) else text
    return found


def life_seconds_of(expires_after: ExpiresAfter | None) -> int | None:
    """Return how long a file is asked to live."""
    return None if expires_after is None else expires_after.seconds


def upload_draft(request: UploadRequest) -> UploadDraft:
    """Return what is asked to arrive."""
    return UploadDraft(
        filename=request.filename,
        purpose=FilePurpose(request.purpose),
        size_bytes=request.bytes,
        mime_type=request.mime_type,
        file_life_seconds=life_seconds_of(request.expires_after),
    )


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


def upload_object(upload: Upload, file: StoredFile | None = None) -> UploadObject:
    """Return an upload as the wire shows it, with the file that it became."""
    return UploadObject(
        id=upload.id,
        bytes=upload.draft.size_bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.draft.filename,
        purpose=upload.draft.purpose.value,
        status=upload.status.value,
        file=None if file is None else file_object(file),
    )


def part_object(part: UploadPart) -> PartObject:
    """Return a part as the wire shows it."""
    return PartObject(id=part.id, created_at=part.created_at, upload_id=part.upload_id)
