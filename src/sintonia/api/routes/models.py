"""``/v1/models``. Names hold colons and slashes, so they take the rest of the path."""

from __future__ import annotations

from contextlib import suppress

from anyio import to_thread
from fastapi import APIRouter

from sintonia.api.schemas.models import ModelDeleted, ModelList, ModelObject
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.models import base_object, base_objects, tuned_object
from sintonia.domain.models import Model, ModelKind
from sintonia.errors import ModelNotFound, PermissionDenied, Unavailable

router = APIRouter(prefix="/v1/models")


@router.get("")
def list_models(services: ServicesDep) -> ModelList:
    """List base models, their aliases, and tuned models with their checkpoints and old names."""
    models = services.store.models
    tuned = models.list(kinds=(ModelKind.TUNED, ModelKind.CHECKPOINT))
    taken = [tuned_object(model, name) for name, model in models.taken_names().items()]
    bases = base_objects(services.catalog, services.library.installed())
    return ModelList(data=[*bases, *map(tuned_object, tuned), *taken])


@router.get("/{name:path}")
def retrieve_model(name: str, services: ServicesDep) -> ModelObject:
    """Return one model."""
    try:
        return tuned_object(services.store.models.get(name), name)
    except ModelNotFound:
        return _base(name, services)


@router.delete("/{name:path}")
async def delete_model(name: str, services: ServicesDep) -> ModelDeleted:
    """Forget a tuned model; a tuned one takes its checkpoints with it."""
    model = await to_thread.run_sync(_delete, name, services)
    with suppress(Unavailable):  # no engine holds it then
        await services.engine.unload(model.adapter_sha256 or model.base.sha256)
    return ModelDeleted(id=name)


def _base(name: str, services: Services) -> ModelObject:
    resolved = services.catalog.resolve(name)
    if not services.library.knows(resolved.base):
        raise ModelNotFound(name)
    return base_object(name, resolved.base, services.library.find(resolved.base))


def _delete(name: str, services: Services) -> Model:
    try:
        model = services.store.models.get(name)
    except ModelNotFound:
        _base(name, services)
        raise PermissionDenied(
            f"Model {name} is a base model: only fine-tuned models can be deleted. "
            "`sintonia gc` shows what the disk holds.",
            param="model",
        ) from None
    services.store.models.delete(name)
    return model
