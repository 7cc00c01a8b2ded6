"""The names under which one model answers."""

from __future__ import annotations

from sintonia.api.services import Services


def names_of_model(name: str | None, services: Services) -> tuple[str, ...]:
    """Return ``name`` and what answers to it are called; nothing where no name is given."""
    if name is None:
        return ()
    deployment = services.store.deployments.find(name)
    model = name if deployment is None else deployment.draft.model
    return tuple(dict.fromkeys((name, model, services.catalog.resolve(model).shown)))
