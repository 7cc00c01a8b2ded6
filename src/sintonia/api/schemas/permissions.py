"""Permissions of tuned models on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sintonia.api.schemas.wire import StrictRequest, Wire

ProjectId = Annotated[str, Field(min_length=1, max_length=100)]


class PermissionRequest(StrictRequest):
    """Parameters of ``POST /v1/fine_tuning/checkpoints/{model}/permissions``."""

    project_ids: list[ProjectId] = Field(min_length=1, max_length=100)


class PermissionObject(Wire):
    """A project that may use a model."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    id: str
    created_at: int
    project_id: str


class PermissionDeleted(Wire):
    """The answer to a deletion."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: Literal[True] = True
