"""Files on the wire, whole and in parts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sintonia.api.schemas.wire import StrictRequest, Wire
from sintonia.domain.files import MAX_LIFE_SECONDS, MIN_LIFE_SECONDS

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
"""What a file may be uploaded for."""


class ExpiresAfter(StrictRequest):
    """How long a file is to live."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_LIFE_SECONDS, le=MAX_LIFE_SECONDS)]


class FileForm(StrictRequest):
    """The fields of the form that uploads a file, beside the file."""

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadRequest(StrictRequest):
    """Parameters of a new upload."""

    filename: Annotated[str, Field(min_length=1, max_length=4096)]
    purpose: Purpose
    bytes: Annotated[int, Field(ge=1)]
    mime_type: Annotated[str, Field(max_length=256)]
    expires_after: ExpiresAfter | None = None


class CompleteRequest(StrictRequest):
    """Parameters that complete an upload."""

    part_ids: Annotated[list[str], Field(min_length=1)]
    md5: str | None = None


class FileRequest(FileForm):
    """The whole form of ``POST /v1/files``, for the document."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]


class PartRequest(StrictRequest):
    """The form of a part, for the document."""

    data: Annotated[str, Field(json_schema_extra={"format": "binary"})]


class FileObject(Wire):
    """A file."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"expires_at", "status_details"})

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error", "succeeded", "failed"]
    """The last two are Azure's words of before 2024."""
    status_details: str | None = None


class FileDeleted(Wire):
    """The answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class UploadObject(Wire):
    """An upload; ``file`` is there once it is completed."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class PartObject(Wire):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
