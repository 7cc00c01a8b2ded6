"""``/v1/fine_tuning/checkpoints/{model}/permissions``.

There is one project yet: permissions are kept and listed, and restrict nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from sintonia.api.bodies import JsonBody, parse
from sintonia.api.openapi import json_body
from sintonia.api.pagination import After, cursor_page
from sintonia.api.schemas.permissions import (
    PermissionDeleted,
    PermissionObject,
    PermissionRequest,
)
from sintonia.api.schemas.wire import CursorPage
from sintonia.api.services import ServicesDep
from sintonia.domain.permissions import CheckpointPermission
from sintonia.store import Page
from sintonia.store.paging import Cursor

router = APIRouter(prefix="/v1/fine_tuning/checkpoints")

Limit = Annotated[int, Query(ge=1, le=100)]
ProjectFilter = Annotated[str | None, Query(max_length=100)]


@router.post("/{model:path}/permissions", openapi_extra=json_body(PermissionRequest))
def create_permissions(
    model: str, body: JsonBody, services: ServicesDep
) -> CursorPage[PermissionObject]:
    """Permit projects to use a tuned model or a checkpoint."""
    request = parse(PermissionRequest, body)
    name = services.store.models.get(model).name
    made = services.store.permissions.create(name, request.project_ids)
    return _page(Page(made, has_more=False))


@router.get("/{model:path}/permissions")
def list_permissions(
    model: str,
    services: ServicesDep,
    project_id: ProjectFilter = None,
    after: After = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> CursorPage[PermissionObject]:
    """List the projects that may use a model, the newest first unless ``order`` is otherwise."""
    name = services.store.models.get(model).name
    cursor = Cursor(after=after, limit=limit, is_ascending=order == "ascending")
    return _page(services.store.permissions.list(name, cursor, project_id=project_id))


@router.delete("/{model:path}/permissions/{permission_id}")
def delete_permission(model: str, permission_id: str, services: ServicesDep) -> PermissionDeleted:
    """Take a permission back."""
    services.store.permissions.delete(services.store.models.get(model).name, permission_id)
    return PermissionDeleted(id=permission_id)


def _page(page: Page[CheckpointPermission]) -> CursorPage[PermissionObject]:
    return cursor_page(page, _shown, lambda permission: permission.id)


def _shown(permission: CheckpointPermission) -> PermissionObject:
    return PermissionObject(
        id=permission.id, created_at=permission.created_at, project_id=permission.project_id
    )
