"""Files on the wire."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from sintonia.api.schemas.wire import Wire


class FileRequest(BaseModel):
    """The form of ``POST /v1/files``, for the document; ``uploads.py`` reads it."""

    purpose: str
    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]


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
