"""``/v1/batches``."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Response

from sintonia.api.batching.runner import RunnerDep
from sintonia.api.bodies import Body, JsonBody, json_answer, parse
from sintonia.api.idempotency import OnceDep
from sintonia.api.openapi import json_body
from sintonia.api.pagination import After, cursor_page
from sintonia.api.schemas.batches import BatchObject, BatchRequest
from sintonia.api.schemas.wire import CursorPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.batches import batch_object, draft_of
from sintonia.data.requests import MAX_INPUT_BYTES
from sintonia.domain.batches import Batch
from sintonia.domain.files import FilePurpose
from sintonia.errors import FileNotFound, InvalidRequest

router = APIRouter(prefix="/v1/batches")


@router.post("", response_model=BatchObject, openapi_extra=json_body(BatchRequest))
async def create_batch(
    body: JsonBody, services: ServicesDep, runner: RunnerDep, once: OnceDep
) -> Response:
    """Store a batch. Its input is checked, then answered when there is room."""
    answer = await once.answer(body, lambda: json_answer(batch_object(_create(body, services))))
    runner.wake()
    return answer


@router.get("")
def list_batches(
    services: ServicesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> CursorPage[BatchObject]:
    """List batches, the newest first."""
    page = services.store.batches.list(after=after, limit=limit)
    return cursor_page(page, batch_object, lambda batch: batch.id)


@router.get("/{batch_id}")
def retrieve_batch(batch_id: str, services: ServicesDep) -> BatchObject:
    """Return one batch."""
    return batch_object(services.store.batches.get(batch_id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, services: ServicesDep, runner: RunnerDep) -> BatchObject:
    """End a batch with what is done; it is ``cancelling`` until its files are written."""
    batch = await to_thread.run_sync(services.store.batches.cancel, batch_id)
    runner.wake()
    return batch_object(batch)


def _create(body: Body, services: Services) -> Batch:
    request = parse(BatchRequest, body)
    _check_input(request.input_file_id, services)
    return services.store.batches.create(draft_of(request))


def _check_input(file_id: str, services: Services) -> None:
    """Check that a file can be the input of a batch. Raises ``InvalidRequest``."""
    try:
        file = services.store.files.get(file_id)
    except FileNotFound:
        raise InvalidRequest(
            f"File '{file_id}' does not exist (invalid input_file_id: {file_id}). "
            "Upload it with purpose 'batch' first.",
            param="input_file_id",
        ) from None
    if file.purpose is not FilePurpose.BATCH:
        raise InvalidRequest(
            f"File '{file_id}' has purpose '{file.purpose}', expected 'batch'. "
            "Upload it again with that purpose.",
            param="input_file_id",
            code="invalid_file_purpose",
        )
    if file.size_bytes > MAX_INPUT_BYTES:
        raise InvalidRequest(
            f"File '{file_id}' has {file.size_bytes:,} bytes; the input of a batch may have "
            f"{MAX_INPUT_BYTES:,}. Split it.",
            param="input_file_id",
            code="file_too_large",
        )
