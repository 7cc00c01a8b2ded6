"""Files: a row for each, the bytes beside it.

Invariant: a row's bytes exist. The row is inserted after the bytes and removed before them;
what a crash leaves between is swept. A file whose time has passed is gone for every reader at
once; its row and bytes are removed some time later.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from sintonia import failpoints, ids
from sintonia.domain.files import DEFAULT_LIFE_SECONDS, FilePurpose, FileStatus, StoredFile
from sintonia.errors import FileNotFound, InvalidValue
from sintonia.store.blobs import Blobs, chunks_of
from sintonia.store.database import Database
from sintonia.store.paging import Cursor, Page, read_page
from sintonia.store.rows import file_of, file_values
from sintonia.store.tables import FILES, UPLOAD_PARTS

_ORDER = (FILES.c.created_at, FILES.c.seq)
"""Files that were brought over are older than their rows."""


class Files:
    """The files of one store."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def create(
        self,
        *,
        filename: str,
        purpose: FilePurpose,
        content: Iterable[bytes] | BinaryIO,
        status: FileStatus = FileStatus.PROCESSED,
        status_details: str | None = None,
        life_seconds: int | None = None,
    ) -> StoredFile:
        """Store a file; it exists when this returns, for ``life_seconds`` or as its purpose says.

        Raises ``PayloadTooLarge``, ``InsufficientStorage`` and ``InvalidValue`` (a name that
        is no text).
        """
        staged = self.stage(filename, purpose, content)
        file = dataclasses.replace(
            staged,
            status=status,
            status_details=status_details,
            expires_at=expiry_of(staged, life_seconds),
        )
        failpoints.reach("file.commit")
        with self._database.write() as connection:
            connection.execute(FILES.insert().values(file_values(file)))
        return file

    def stage(
        self,
        filename: str,
        purpose: FilePurpose,
        content: Iterable[bytes] | BinaryIO,
        *,
        is_limited: bool = True,
    ) -> StoredFile:
        """Store the bytes only. The file exists once somebody inserts its row; else it is swept.

        Unless ``is_limited``, it may be larger than what may be uploaded.
        """
        check_filename(filename)
        file_id = ids.new_id(ids.FILE)
        written = self._blobs.write(file_id, chunks_of(content), is_limited=is_limited)
        return StoredFile(
            id=file_id,
            filename=filename,
            purpose=purpose,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            created_at=int(time.time()),
        )

    def get(self, file_id: str) -> StoredFile:
        """Return a file. Raises ``FileNotFound``, for an expired one too."""
        with self._database.read() as connection:
            row = connection.execute(_living().where(FILES.c.id == file_id)).one_or_none()
        if row is None:
            raise FileNotFound(file_id)
        return file_of(row)

    def list(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10000,
        order: str = "desc",
    ) -> Page[StoredFile]:
        """Return files, the newest first unless ``order`` is ``asc``.

        Raises ``InvalidValue`` for an ``after`` that is no file of the list.
        """
        query = _living()
        if purpose is not None:
            query = query.where(FILES.c.purpose == purpose)
        cursor = Cursor(after=after, limit=limit, is_ascending=order == "asc")
        with self._database.read() as connection:
            page = read_page(connection, query, _ORDER, cursor)
        return Page(items=[file_of(row) for row in page.items], has_more=page.has_more)

    def set_status(self, file_id: str, status: FileStatus, details: str | None) -> StoredFile:
        """Say whether the content was accepted. Raises ``FileNotFound``."""
        change = FILES.update().where(FILES.c.id == file_id)
        with self._database.write() as connection:
            connection.execute(change.values(status=status, status_details=details))
        return self.get(file_id)

    def open(self, file_id: str) -> BinaryIO:
        """Open the content for reading. Raises ``FileNotFound``."""
        return self._blobs.open(self.get(file_id).id)

    def copy_to(self, file_id: str, path: Path) -> None:
        """Write the content to ``path``. Raises ``FileNotFound``."""
        with self.open(file_id) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)

    def delete(self, file_id: str) -> None:
        """Remove a file. Raises ``FileNotFound``, for an expired one too."""
        meant = FILES.delete().where(FILES.c.id == file_id, _is_living())
        with self._database.write() as connection:
            removed = connection.execute(meant).rowcount
        if not removed:
            raise FileNotFound(file_id)
        self._blobs.remove(file_id)

    def remove_expired(self) -> int:
        """Remove the files whose time has passed; return how many."""
        with self._database.write() as connection:
            query = FILES.delete().where(~_is_living()).returning(FILES.c.id)
            expired = list(connection.scalars(query))
        for file_id in expired:
            self._blobs.remove(file_id)
        return len(expired)

    def orphans(self, older_than_seconds: float) -> dict[str, int]:
        """Return names and sizes in bytes of blobs that no file or part of one refers to.

        Younger ones are left out: their row may be about to be inserted.
        """
        blobs = self._blobs.names(older_than_seconds)
        with self._database.read() as connection:
            known = set(connection.scalars(sa.select(FILES.c.id)))
            known |= set(connection.scalars(sa.select(UPLOAD_PARTS.c.id)))
        return {name: size for name, size in blobs.items() if name not in known}

    def location(self, name: str) -> str:
        """Return where the bytes of a file or an orphan lie, as an fsspec URL."""
        return self._blobs.location(name)

    def sweep(self, older_than_seconds: float) -> int:
        """Remove blobs that no file or part of one refers to; return how many."""
        orphans = self.orphans(older_than_seconds)
        for name in orphans:
            self._blobs.remove(name)
        return len(orphans)


def expiry_of(file: StoredFile, life_seconds: int | None) -> int | None:
    """Return when a new file expires: after ``life_seconds``, or as its purpose says."""
    life = life_seconds or DEFAULT_LIFE_SECONDS.get(file.purpose)
    return None if life is None else file.created_at + life


def _is_living() -> sa.ColumnElement[bool]:
    """Return the condition that a file's time has not passed; whether it was swept or not."""
    return sa.or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > int(time.time()))


def _living() -> sa.Select[Any]:
    return sa.select(FILES).where(_is_living())


def check_filename(filename: str) -> None:
    """Raise ``InvalidValue`` for what a database does not take: lone surrogates and NUL."""
    try:
        filename.encode()
    except UnicodeEncodeError:
        is_text = False
    else:
        is_text = "\0" not in filename
    if not is_text:
        raise InvalidValue("filename: must be valid text. Rename the file.", param="file")
