"""Models: what the catalog, the library and the store know, as the wire shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sintonia.api.schemas.models import ModelObject
from sintonia.bases.folder import BaseModel
from sintonia.catalog import Catalog
from sintonia.domain.models import Model

BASE_OWNER = "system"
"""What OpenAI writes for base models."""


def tuned_object(model: Model, name: str | None = None) -> ModelObject:
    """Return a tuned model or a checkpoint, under ``name`` if that is one that it took over."""
    own = name is None or name == model.name
    return ModelObject(
        id=name or model.name,
        created=model.created_at,
        owned_by=model.owned_by,
        root=model.base.name,
        parent=(model.parent or model.base.name) if own else model.name,
    )


def base_object(name: str, base: str, installed: BaseModel | None) -> ModelObject:
    """Return a base model, or an alias of one; not fetched yet means created at 0."""
    created = installed.created_at if installed else 0
    return ModelObject(
        id=name, created=created, owned_by=BASE_OWNER, root=None if name == base else base
    )


def base_objects(catalog: Catalog, installed: Iterable[BaseModel]) -> list[ModelObject]:
    """Return all base models that can be asked for, then the aliases that have a whole name."""
    on_disk = {base.ref.name: base for base in installed}
    names = sorted({*catalog.entries, *on_disk})
    aliases = _alias_names(catalog)
    shown = [base_object(name, name, on_disk.get(name)) for name in names]
    shown += [
        base_object(alias, target, on_disk.get(target))
        for alias, target in aliases.items()
        if target in names
    ]
    return shown


def _alias_names(catalog: Catalog) -> Mapping[str, str]:
    """Return the aliases without a ``*`` and all snapshots, each with its base."""
    names = [alias.pattern for alias in catalog.aliases if not alias.pattern.endswith("*")]
    for alias in catalog.aliases:
        for name, snapshot in alias.snapshots.items():
            names += [name, snapshot]
    return {name: catalog.resolve(name).base for name in dict.fromkeys(names)}
