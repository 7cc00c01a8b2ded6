"""``/v1/files``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from sintonia.api.bodies import json_answer, parse
from sintonia.api.data_files import verdict_on
from sintonia.api.idempotency import OnceDep
from sintonia.api.openapi import form_body
from sintonia.api.pagination import After, cursor_page
from sintonia.api.schemas.files import FileDeleted, FileForm, FileObject, FileRequest
from sintonia.api.schemas.wire import CursorPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.shown_files import ShowFile, content_for_azure
from sintonia.api.translate.files import form_object, life_seconds_of
from sintonia.api.uploads import Upload, receive_upload
from sintonia.data.result_files import decoded, is_encoded
from sintonia.domain.files import FilePurpose, StoredFile
from sintonia.errors import InvalidRequest
from sintonia.sealed import hash_file

router = APIRouter(prefix="/v1/files")

_CHUNK_BYTES = 3 * 64 * 1024
"""A multiple of three: base64 of the chunks is base64 of the whole."""


@router.post("", response_model=FileObject, openapi_extra=form_body(FileRequest))
async def create_file(
    request: Request, services: ServicesDep, show: ShowFile, once: OnceDep
) -> Response:
    """Store a file. What is wrong with the rows of a data file is in ``status_details``."""
    settings = services.settings
    async with receive_upload(request, settings.home, settings.max_file_bytes) as upload:
        said = None if once.key is None else await to_thread.run_sync(_said, upload)
        return await once.answer(said, lambda: json_answer(show(_store(upload, services))))


@router.get("")
def list_files(
    services: ServicesDep,
    show: ShowFile,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> CursorPage[FileObject]:
    """List files, the newest first unless ``order`` is ``asc``."""
    page = services.store.files.list(purpose=purpose, after=after, limit=limit, order=order)
    return cursor_page(page, show, lambda file: file.id)


@router.get("/{file_id}")
def retrieve_file(file_id: str, services: ServicesDep, show: ShowFile) -> FileObject:
    """Return one file object."""
    return show(services.store.files.get(file_id))


@router.get("/{file_id}/content", response_class=StreamingResponse)
def file_content(file_id: str, request: Request, services: ServicesDep, show: ShowFile) -> Response:
    """Return a file's bytes; those of result files in base64 only where the settings want it."""
    file = services.store.files.get(file_id)
    kind = "application/octet-stream"
    headers = {"content-disposition": _disposition(show(file).filename)}
    table = content_for_azure(file, request, services)
    if table is not None:
        return Response(table, media_type=kind, headers=headers)
    content = services.store.files.open(file_id)
    chunks, size_bytes = _chunks(content), file.size_bytes
    if file.purpose is FilePurpose.FINE_TUNE_RESULTS:
        wants, has = services.settings.result_files == "base64", is_encoded(content)
        if has and not wants:  # brought over from elsewhere
            return StreamingResponse(decoded(chunks), media_type=kind, headers=headers)
        if wants and not has:
            chunks, size_bytes = map(base64.b64encode, chunks), -(-size_bytes // 3) * 4
    headers["content-length"] = str(size_bytes)
    return StreamingResponse(chunks, media_type=kind, headers=headers)


@router.delete("/{file_id}")
def delete_file(file_id: str, services: ServicesDep) -> FileDeleted:
    """Remove a file. A job that has begun keeps its own copy."""
    services.store.files.delete(file_id)
    return FileDeleted(id=file_id)


def _store(upload: Upload, services: Services) -> StoredFile:
    if upload.filename is None:
        raise InvalidRequest(
            "Missing required parameter: 'file'.", param="file", code="missing_required_parameter"
        )
    form = parse(FileForm, form_object(upload.fields))
    purpose = FilePurpose(form.purpose)
    status, details = verdict_on(upload.path, purpose)
    with upload.path.open("rb") as content:
        return services.store.files.create(
            filename=upload.filename or "file",
            purpose=purpose,
            content=content,
            status=status,
            status_details=details,
            life_seconds=life_seconds_of(form.expires_after),
        )


def _said(upload: Upload) -> Any:
    """Return what a form said, however its parts were ordered and divided."""
    return [upload.fields, upload.filename, hash_file(upload.path)]


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _disposition(filename: str) -> str:
    """Return the header that names a file: plainly where that can be read by everybody."""
    if quote(filename) == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
