"""Files: facts to wire."""

from __future__ import annotations

from sintonia.api.schemas.files import FileObject
from sintonia.domain.files import StoredFile


def file_object(file: StoredFile) -> FileObject:
    """Return a file as the wire shows it."""
    return FileObject(
        id=file.id,
        bytes=file.size_bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose.value,
        status=file.status.value,
        status_details=file.status_details,
    )
