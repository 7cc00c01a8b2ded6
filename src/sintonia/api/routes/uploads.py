"""``/v1/uploads``: files that arrive in parts."""

from __future__ import annotations

import dataclasses

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from sintonia.api.bodies import JsonBody, json_answer, parse
from sintonia.api.data_files import verdict_on
from sintonia.api.idempotency import OnceDep
from sintonia.api.openapi import form_body, json_body
from sintonia.api.schemas.files import (
    CompleteRequest,
    PartObject,
    PartRequest,
    UploadObject,
    UploadRequest,
)
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.files import part_object, upload_draft, upload_object
from sintonia.api.uploads import arrival_folder, harmless, receive_upload
from sintonia.domain.files import StoredFile
from sintonia.domain.uploads import MAX_PART_BYTES, Upload, UploadStatus
from sintonia.errors import FileNotFound, InvalidRequest, UnknownParameter

router = APIRouter(prefix="/v1/uploads")


@router.post("", response_model=UploadObject, openapi_extra=json_body(UploadRequest))
async def create_upload(body: JsonBody, services: ServicesDep, once: OnceDep) -> Response:
    """Begin an upload."""
    return await once.answer(body, lambda: _create(body, services))


@router.post("/{upload_id}/parts", openapi_extra=form_body(PartRequest))
async def add_part(upload_id: str, request: Request, services: ServicesDep) -> PartObject:
    """Take in one part; parts may arrive side by side and in any order."""
    uploads = services.store.uploads
    home = services.settings.home
    await to_thread.run_sync(uploads.require_pending, upload_id)
    async with receive_upload(request, home, MAX_PART_BYTES, part="data") as form:
        _check_part(form.filename, form.fields)
        with form.path.open("rb") as content:
            part = await to_thread.run_sync(uploads.add_part, upload_id, content)
    return part_object(part)


@router.post("/{upload_id}/complete", openapi_extra=json_body(CompleteRequest))
def complete_upload(upload_id: str, body: JsonBody, services: ServicesDep) -> UploadObject:
    """Make a file of the parts in the order of ``part_ids``, checked as an uploaded file is."""
    request = parse(CompleteRequest, body)
    uploads = services.store.uploads
    if uploads.get(upload_id).status is UploadStatus.COMPLETED:
        return _shown(uploads.completed(upload_id, request.part_ids), services)
    file = uploads.join(upload_id, request.part_ids, request.md5)
    try:
        checked = _checked(file, services)
    except BaseException:
        uploads.discard(file)
        raise
    return _shown(uploads.complete(upload_id, request.part_ids, checked), services)


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, services: ServicesDep) -> UploadObject:
    """End an upload and drop its parts."""
    return upload_object(services.store.uploads.cancel(upload_id))


def _create(body: JsonBody, services: Services) -> Response:
    request = parse(UploadRequest, body)
    limit = services.settings.max_upload_bytes
    if request.bytes > limit:
        raise InvalidRequest(
            f"Invalid 'bytes': integer above maximum value. Expected a value <= {limit}, but got "
            f"{request.bytes} instead. Split the file, or have the operator raise "
            "max_upload_bytes.",
            param="bytes",
            code="integer_above_max_value",
        )
    upload = services.store.uploads.create(upload_draft(request))
    return json_answer(upload_object(upload))


def _check_part(filename: str | None, fields: dict[str, str]) -> None:
    """Refuse a form without the part ``data`` as a file, or with anything else."""
    if filename is None:
        raise InvalidRequest(
            "Missing required parameter: 'data'. Send the bytes of the part as a file in it.",
            param="data",
            code="missing_required_parameter",
        )
    for name in fields:
        raise UnknownParameter(
            f"Unrecognized request argument supplied: {name[:100]}. Send the part 'data' only.",
            param=name[:100],
        )


def _checked(file: StoredFile, services: Services) -> StoredFile:
    """Return a file with what is to be said of its content."""
    with arrival_folder(services.settings.home) as folder:
        place = folder / harmless(file.filename)
        with services.store.uploads.as_path(file, place) as path:
            status, details = verdict_on(path, file.purpose)
    return dataclasses.replace(file, status=status, status_details=details)


def _shown(upload: Upload, services: Services) -> UploadObject:
    assert upload.file_id is not None, "a completed upload has become a file"
    try:
        return upload_object(upload, services.store.files.get(upload.file_id))
    except FileNotFound:  # deleted since
        return upload_object(upload)
