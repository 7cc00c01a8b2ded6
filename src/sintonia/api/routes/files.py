"""``/v1/files``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from sintonia.api.openapi import form_body
from sintonia.api.pagination import After, cursor_page
from sintonia.api.schemas.files import FileDeleted, FileObject, FileRequest
from sintonia.api.schemas.wire import CursorPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.shown_files import ShowFile, content_for_azure
from sintonia.api.uploads import Upload, receive_upload
from sintonia.data.result_files import decoded, is_encoded
from sintonia.data.validate import validate
from sintonia.domain.files import UPLOADABLE, FilePurpose, FileStatus, StoredFile
from sintonia.errors import InvalidRequest, InvalidValue, UnsupportedParameter

router = APIRouter(prefix="/v1/files")

_CHUNK_BYTES = 256 * 1024


@router.post("", openapi_extra=form_body(FileRequest))
async def create_file(request: Request, services: ServicesDep, show: ShowFile) -> FileObject:
    """Store a file. What is wrong with the rows of a data file is in ``status_details``."""
    settings = services.settings
    async with receive_upload(request, settings.home, settings.max_file_bytes) as upload:
        return show(await to_thread.run_sync(_store, upload, services))


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
    """Return a file's bytes; results that came as base64 from elsewhere are plain again."""
    file = services.store.files.get(file_id)
    kind = "application/octet-stream"
    name = quote(show(file).filename, safe="")
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}"}
    table = content_for_azure(file, request, services)
    if table is not None:
        return Response(table, media_type=kind, headers=headers)
    content = services.store.files.open(file_id)
    chunks = _chunks(content)
    if file.purpose is FilePurpose.FINE_TUNE_RESULTS and is_encoded(content):
        chunks = decoded(chunks)
    else:
        headers["content-length"] = str(file.size_bytes)
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
    purpose = _purpose(upload.fields)
    problems = _problems(upload.path) if purpose is FilePurpose.FINE_TUNE else None
    with upload.path.open("rb") as content:
        return services.store.files.create(
            filename=upload.filename or "file",
            purpose=purpose,
            content=content,
            status=FileStatus.ERROR if problems else FileStatus.PROCESSED,
            status_details=problems,
        )


def _purpose(fields: dict[str, str]) -> FilePurpose:
    """Return the purpose of a form. Raises ``InvalidRequest``, one of its kinds."""
    if "purpose" not in fields:
        raise InvalidRequest(
            "Missing required parameter: 'purpose'.",
            param="purpose",
            code="missing_required_parameter",
        )
    if any(name.startswith("expires_after") for name in fields):
        raise UnsupportedParameter(
            "Parameter expires_after: files do not expire here yet. Leave it out and delete the "
            "file when it is no longer needed.",
            param="expires_after",
        )
    purpose = fields["purpose"]
    if purpose not in {known.value for known in UPLOADABLE}:
        names = ", ".join(f"'{known}'" for known in UPLOADABLE)
        raise InvalidValue(
            f"Invalid value for 'purpose': {purpose[:100]!r}. Supported values are: {names}.",
            param="purpose",
        )
    return FilePurpose(purpose)


def _problems(path: Path) -> str | None:
    """Return what is wrong with a data file, or ``None``.

    The number of rows is checked when a job says whether the file is for training.
    """
    report = validate(path, min_examples=1)
    if report.is_valid:
        return None
    first = f"Invalid file format. {report.summary()}"
    return first if report.num_problems == 1 else "\n".join((first, *report.listing()))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
