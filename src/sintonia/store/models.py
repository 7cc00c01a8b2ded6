"""Models that jobs made. Base models lie in folders of their own and have no row."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from sintonia.domain.models import Model, ModelKind
from sintonia.errors import InvalidValue, ModelNotFound
from sintonia.store.database import Database
from sintonia.store.rows import model_of, model_values
from sintonia.store.tables import MODELS, TAKEN_NAMES

ModelList = list[Model]
ModelsByName = Mapping[str, Model]


class Models:
    """The tuned models of one store.

    A deleted one keeps its row, so that what a job still says of it brings no name back; only
    ``add`` gives such a name to another model.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, model: Model) -> None:
        """Register a model; the name of a deleted one may be used again.

        Raises ``InvalidValue`` for a name that is in use.
        """
        same = MODELS.c.name == model.name
        with self._database.write() as connection:
            connection.execute(MODELS.delete().where(same, MODELS.c.deleted_at.is_not(None)))
            if connection.scalar(sa.select(MODELS.c.seq).where(same)) is not None:
                raise InvalidValue(
                    f"Model name {model.name!r} is taken. Choose another.", param="name"
                )
            connection.execute(MODELS.insert().values(model_values(model)))

    def get(self, name: str) -> Model:
        """Return a model, also by a name that it took over.

        Raises ``ModelNotFound``, for a deleted one too.
        """
        query = sa.select(MODELS).where(MODELS.c.name == name, MODELS.c.deleted_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            row = row or connection.execute(_behind_taken(name)).one_or_none()
        if row is None:
            raise ModelNotFound(name)
        return model_of(row)

    def take_name(self, name: str, job_id: str) -> None:
        """Let the model that a job makes answer to ``name`` as well, once it is there.

        Until then, and when the job fails, the name means what it meant before. A model that
        has the name itself keeps it.
        """
        same = sa.and_(TAKEN_NAMES.c.name == name, TAKEN_NAMES.c.job_id == job_id)
        with self._database.write() as connection:
            connection.execute(TAKEN_NAMES.delete().where(same))
            connection.execute(TAKEN_NAMES.insert().values(name=name, job_id=job_id))

    def taken_names(self) -> ModelsByName:
        """Return the names that models took over, each with the model that answers to it."""
        query = sa.select(TAKEN_NAMES.c.name).distinct().order_by(TAKEN_NAMES.c.name)
        with self._database.read() as connection:
            names = list(connection.scalars(query))
        found = {}
        for name in names:
            with suppress(ModelNotFound):  # its job has made none yet
                found[name] = self.get(name)
        return {name: model for name, model in found.items() if model.name != name}

    def list(self, *, kinds: Collection[ModelKind] = (ModelKind.TUNED,)) -> ModelList:
        """Return the models of these kinds, oldest first."""
        query = (
            sa.select(MODELS)
            .where(MODELS.c.kind.in_(list(kinds)), MODELS.c.deleted_at.is_(None))
            .order_by(MODELS.c.seq)
        )
        with self._database.read() as connection:
            return [model_of(row) for row in connection.execute(query)]

    def delete(self, name: str) -> None:
        """Forget a model; a tuned one takes its checkpoints with it. Raises ``ModelNotFound``.

        Of a name that a model took over only the name goes.
        """
        model = self.get(name)
        if model.name != name:
            with self._database.write() as connection:
                connection.execute(TAKEN_NAMES.delete().where(TAKEN_NAMES.c.name == name))
            return
        meant = MODELS.c.name == name
        if model.kind is ModelKind.TUNED and model.job_id is not None:
            meant = MODELS.c.job_id == model.job_id
        change = MODELS.update().where(meant, MODELS.c.deleted_at.is_(None))
        with self._database.write() as connection:
            connection.execute(change.values(deleted_at=int(time.time())))


def _behind_taken(name: str) -> sa.Select[Any]:
    """Return the query for the newest model that took ``name`` over."""
    is_there = sa.and_(MODELS.c.kind == ModelKind.TUNED, MODELS.c.deleted_at.is_(None))
    return (
        sa.select(MODELS)
        .join(TAKEN_NAMES, TAKEN_NAMES.c.job_id == MODELS.c.job_id)
        .where(TAKEN_NAMES.c.name == name, is_there)
        .order_by(TAKEN_NAMES.c.seq.desc())
        .limit(1)
    )
