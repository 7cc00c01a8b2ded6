"""Permissions of tuned models for projects. They are kept and listed; nothing asks them yet."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa

from sintonia import ids
from sintonia.domain.permissions import CheckpointPermission
from sintonia.errors import PermissionNotFound
from sintonia.store.database import Database
from sintonia.store.paging import Cursor, Page, read_page
from sintonia.store.rows import Row
from sintonia.store.tables import PERMISSIONS

Created = list[CheckpointPermission]


class Permissions:
    """The permissions of one store: at most one for each model and project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, model: str, project_ids: Sequence[str]) -> Created:
        """Permit projects to use ``model``; one that is permitted already keeps its permission."""
        wanted = list(dict.fromkeys(project_ids))
        of_model = sa.select(PERMISSIONS).where(PERMISSIONS.c.model == model)
        query = of_model.where(PERMISSIONS.c.project_id.in_(wanted))
        with self._database.write() as connection:
            known = {row.project_id for row in connection.execute(query)}
            for project in wanted:
                if project not in known:
                    connection.execute(PERMISSIONS.insert().values(_new_row(model, project)))
            found = {row.project_id: _permission_of(row) for row in connection.execute(query)}
        return [found[project] for project in wanted]

    def list(
        self, model: str, cursor: Cursor, *, project_id: str | None = None
    ) -> Page[CheckpointPermission]:
        """Return permissions of ``model``. Raises ``InvalidValue`` for an unknown ``after``."""
        query = sa.select(PERMISSIONS).where(PERMISSIONS.c.model == model)
        if project_id is not None:
            query = query.where(PERMISSIONS.c.project_id == project_id)
        with self._database.read() as connection:
            page = read_page(connection, query, PERMISSIONS.c.seq, cursor)
        return Page([_permission_of(row) for row in page.items], page.has_more)

    def delete(self, model: str, permission_id: str) -> None:
        """Take a permission back. Raises ``PermissionNotFound``."""
        meant = (PERMISSIONS.c.model == model, PERMISSIONS.c.id == permission_id)
        with self._database.write() as connection:
            if not connection.execute(PERMISSIONS.delete().where(*meant)).rowcount:
                raise PermissionNotFound(permission_id, model)


def _new_row(model: str, project_id: str) -> dict[str, str | int]:
    return {
        "id": ids.new_id(ids.PERMISSION),
        "model": model,
        "project_id": project_id,
        "created_at": int(time.time()),
    }


def _permission_of(row: Row) -> CheckpointPermission:
    return CheckpointPermission(
        id=row.id, model=row.model, project_id=row.project_id, created_at=row.created_at
    )
