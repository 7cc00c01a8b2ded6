"""Deployments: which model a name of Azure's stands for."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from sintonia.domain.deployments import Deployment, DeploymentDraft
from sintonia.errors import DeploymentNotFound
from sintonia.store.database import Database
from sintonia.store.tables import DEPLOYMENTS

DeploymentList = list[Deployment]


class Deployments:
    """The deployments of one store. A name stands for one model at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, draft: DeploymentDraft) -> tuple[Deployment, bool]:
        """Store a deployment or change the one of this name; tell whether it is new."""
        now = int(time.time())
        values = {"model": draft.model, "asked": dict(draft.asked), "updated_at": now}
        change = DEPLOYMENTS.update().where(DEPLOYMENTS.c.name == draft.name).values(values)
        with self._database.write() as connection:
            is_new = connection.execute(change).rowcount == 0
            if is_new:
                row = {"name": draft.name, "created_at": now, **values}
                connection.execute(DEPLOYMENTS.insert().values(row))
        return self.get(draft.name), is_new

    def find(self, name: str) -> Deployment | None:
        """Return the deployment of this name, if there is one."""
        query = sa.select(DEPLOYMENTS).where(DEPLOYMENTS.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _deployment_of(row)

    def get(self, name: str) -> Deployment:
        """Return a deployment. Raises ``DeploymentNotFound``."""
        found = self.find(name)
        if found is None:
            raise DeploymentNotFound(name)
        return found

    def list(self) -> DeploymentList:
        """Return all deployments, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(DEPLOYMENTS).order_by(DEPLOYMENTS.c.seq))
            return [_deployment_of(row) for row in rows]

    def delete(self, name: str) -> None:
        """Forget a deployment; its model stays. Raises ``DeploymentNotFound``."""
        with self._database.write() as connection:
            meant = DEPLOYMENTS.delete().where(DEPLOYMENTS.c.name == name)
            if not connection.execute(meant).rowcount:
                raise DeploymentNotFound(name)


def _deployment_of(row: sa.Row[Any]) -> Deployment:
    draft = DeploymentDraft(name=row.name, model=row.model, asked=row.asked)
    return Deployment(draft, row.created_at, row.updated_at)
