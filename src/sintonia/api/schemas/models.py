"""Models on the wire."""

from __future__ import annotations

from typing import ClassVar, Literal

from sintonia.api.schemas.wire import Wire


class ModelObject(Wire):
    """A model that can be asked for by name."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"root", "parent"})

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str | None = None
    """The base model behind an alias or a tuned model."""
    parent: str | None = None
    """What a tuned model was trained from."""


class ModelList(Wire):
    """All models; never paginated."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(Wire):
    """The answer to a deletion."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
