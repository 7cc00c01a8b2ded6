"""``/v1/chat/completions`` as a list: completions that were kept on wish."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from sintonia.api.bodies import JsonBody, parse_whole
from sintonia.api.model_names import names_of_model
from sintonia.api.openapi import json_body
from sintonia.api.pagination import After, cursor_page, page_of
from sintonia.api.queries import MetadataFilter
from sintonia.api.schemas.stored_completions import (
    CompletionDeleted,
    MetadataUpdate,
    StoredCompletionObject,
    StoredMessageObject,
)
from sintonia.api.schemas.wire import CursorPage
from sintonia.api.services import ServicesDep
from sintonia.api.translate.stored_completions import stored_messages, stored_object
from sintonia.domain.stored_completions import CompletionFilter

router = APIRouter(prefix="/v1/chat/completions")

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]


@router.get("")
def list_completions(
    services: ServicesDep,
    metadata: MetadataFilter,
    model: Annotated[str | None, Query(max_length=256)] = None,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> CursorPage[StoredCompletionObject]:
    """List stored completions, the oldest first unless ``order`` is ``desc``."""
    wanted = CompletionFilter(models=names_of_model(model, services), metadata=metadata)
    page = services.store.completions.list(wanted, after=after, limit=limit, order=order)
    return cursor_page(page, stored_object, lambda completion: completion.id)


@router.get("/{completion_id}")
def retrieve_completion(completion_id: str, services: ServicesDep) -> StoredCompletionObject:
    """Return one stored completion."""
    return stored_object(services.store.completions.get(completion_id))


@router.post("/{completion_id}", openapi_extra=json_body(MetadataUpdate))
def update_completion(
    completion_id: str, body: JsonBody, services: ServicesDep
) -> StoredCompletionObject:
    """Replace the metadata; ``null`` leaves none."""
    update = parse_whole(MetadataUpdate, body)
    store = services.store.completions
    return stored_object(store.set_metadata(completion_id, update.metadata or {}))


@router.delete("/{completion_id}")
def delete_completion(completion_id: str, services: ServicesDep) -> CompletionDeleted:
    """Forget a stored completion."""
    services.store.completions.delete(completion_id)
    return CompletionDeleted(id=completion_id)


@router.get("/{completion_id}/messages")
def list_messages(
    completion_id: str,
    services: ServicesDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> CursorPage[StoredMessageObject]:
    """List the messages that a stored completion answers, the first of them first."""
    messages = stored_messages(services.store.completions.get(completion_id))
    ordered = messages if order == "asc" else messages[::-1]
    page = page_of(ordered, [message.id for message in ordered], after=after, limit=limit)
    return cursor_page(page, lambda message: message, lambda message: message.id)
