"""Models that jobs made. Base models lie in folders of their own and have no row."""

from __future__ import annotations

import time
from collections.abc import Collection

import sqlalchemy as sa

from sintonia.domain.models import Model, ModelKind
from sintonia.errors import InvalidValue, ModelNotFound
from sintonia.store.database import Database
from sintonia.store.rows import model_of, model_values
from sintonia.store.tables import MODELS

ModelList = list[Model]


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
        """Return a model. Raises ``ModelNotFound``, for a deleted one too."""
        query = sa.select(MODELS).where(MODELS.c.name == name, MODELS.c.deleted_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise ModelNotFound(name)
        return model_of(row)

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
        """Forget a model; a tuned one takes its checkpoints with it. Raises ``ModelNotFound``."""
        model = self.get(name)
        meant = MODELS.c.name == name
        if model.kind is ModelKind.TUNED and model.job_id is not None:
            meant = MODELS.c.job_id == model.job_id
        change = MODELS.update().where(meant, MODELS.c.deleted_at.is_(None))
        with self._database.write() as connection:
            connection.execute(change.values(deleted_at=int(time.time())))
