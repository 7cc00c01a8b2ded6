"""Uploads: parts that arrive in any order, and the one file that they become.

Invariants: a part's bytes exist as long as its row does. An upload and its file appear as
completed together or not at all; only one of several that complete it at once does. What a
crash leaves between bytes and rows is swept with the file store's other orphans.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from sintonia import failpoints, ids
from sintonia.domain.files import StoredFile
from sintonia.domain.uploads import (
    LIFE_SECONDS,
    Upload,
    UploadDraft,
    UploadPart,
    UploadStatus,
)
from sintonia.errors import InvalidRequest, InvalidValue, ServerError, UploadNotFound
from sintonia.store.blobs import Blobs, chunks_of
from sintonia.store.database import Database
from sintonia.store.files import Files, check_filename, expiry_of
from sintonia.store.rows import file_values, part_of, upload_of
from sintonia.store.tables import FILES, UPLOAD_PARTS, UPLOADS

COMPLETING_SECONDS = 3600
"""How long the parts of an expired upload stay: one that is being completed still needs them."""


class Uploads:
    """The uploads of one store."""

    def __init__(self, database: Database, blobs: Blobs, files: Files) -> None:
        self._database = database
        self._blobs = blobs
        self._files = files

    def create(self, draft: UploadDraft) -> Upload:
        """Begin an upload. Raises ``InvalidValue`` for a name that is no text."""
        check_filename(draft.filename)
        upload_id, now = ids.new_id(ids.UPLOAD), int(time.time())
        row = {
            "id": upload_id,
            "draft": dataclasses.asdict(draft),
            "status": UploadStatus.PENDING,
            "created_at": now,
            "expires_at": now + LIFE_SECONDS,
            "part_ids": [],
        }
        with self._database.write() as connection:
            connection.execute(UPLOADS.insert().values(row))
            failpoints.reach("upload.create")
        return self.get(upload_id)

    def get(self, upload_id: str) -> Upload:
        """Return an upload. Raises ``UploadNotFound``."""
        with self._database.read() as connection:
            return _read(connection, upload_id)

    def require_pending(self, upload_id: str) -> None:
        """Raise ``UploadNotFound`` or ``InvalidRequest`` unless an upload takes parts."""
        _require_pending(self.get(upload_id))

    def add_part(self, upload_id: str, content: Iterable[bytes] | BinaryIO) -> UploadPart:
        """Store a part; it exists when this returns.

        Raises ``UploadNotFound``, ``InvalidRequest`` for an upload that is not pending,
        and ``InsufficientStorage``.
        """
        self.require_pending(upload_id)
        part_id = ids.new_id(ids.UPLOAD_PART)
        written = self._blobs.write(part_id, chunks_of(content), is_limited=False)
        part = UploadPart(part_id, upload_id, written.size_bytes, int(time.time()))
        failpoints.reach("upload.part")
        try:
            with self._database.write() as connection:
                _require_pending(_read(connection, upload_id))
                connection.execute(UPLOAD_PARTS.insert().values(dataclasses.asdict(part)))
        except InvalidRequest:  # it ended while the part arrived
            self._blobs.remove(part_id)
            raise
        return part

    def cancel(self, upload_id: str) -> Upload:
        """End a pending upload and drop its parts; asking again changes nothing.

        Raises ``UploadNotFound``, ``InvalidRequest``.
        """
        with self._database.write() as connection:
            upload = _read(connection, upload_id)
            if upload.status is UploadStatus.CANCELLED:
                return upload
            _require_pending(upload)
            dropped = _end(connection, upload_id, UploadStatus.CANCELLED)
        self._remove(dropped)
        return self.get(upload_id)

    def join(self, upload_id: str, part_ids: Sequence[str], md5: str | None) -> StoredFile:
        """Store the bytes of the file that the parts make, without its row; see ``complete``.

        Raises ``UploadNotFound``; ``InvalidRequest`` where the upload is not pending, a part is
        not its own, or the bytes are not those that were announced; ``InsufficientStorage``.
        """
        with self._database.read() as connection:
            upload = _read(connection, upload_id)
            _require_pending(upload)
            query = sa.select(UPLOAD_PARTS).where(UPLOAD_PARTS.c.upload_id == upload_id)
            parts = [part_of(row) for row in connection.execute(query)]
        _check_parts(upload, {part.id: part for part in parts}, part_ids)
        digest = hashlib.md5(usedforsecurity=False)
        file = self._stage(upload, _hashed(self._content(part_ids), digest))
        if md5 is not None and md5.lower() != digest.hexdigest():
            self.discard(file)
            raise InvalidValue(
                f"Invalid 'md5': the parts have the checksum {digest.hexdigest()}, not "
                f"{md5[:100]!r}. Check their order, or send again what was damaged.",
                param="md5",
            )
        return dataclasses.replace(file, expires_at=expiry_of(file, upload.draft.file_life_seconds))

    def complete(self, upload_id: str, part_ids: Sequence[str], file: StoredFile) -> Upload:
        """Let a pending upload become ``file``, whose bytes ``join`` has stored.

        An upload whose time passed after ``join`` is still completed. Where it ended meanwhile,
        the bytes are dropped. Raises ``InvalidRequest`` then.
        """
        is_pending = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.status == UploadStatus.PENDING)
        values = {"part_ids": list(part_ids), "file_id": file.id}
        with self._database.write() as connection:
            was_pending = connection.execute(UPLOADS.update().where(is_pending).values(values))
            if was_pending.rowcount:
                dropped = _end(connection, upload_id, UploadStatus.COMPLETED)
                connection.execute(FILES.insert().values(file_values(file)))
                failpoints.reach("upload.complete")
        if not was_pending.rowcount:
            self.discard(file)
            return self.completed(upload_id, part_ids)
        failpoints.reach("upload.clear")
        self._remove(dropped)
        return self.get(upload_id)

    def completed(self, upload_id: str, part_ids: Sequence[str]) -> Upload:
        """Return an upload that was completed with the same parts before.

        A client that did not get the answer asks again. Raises ``UploadNotFound``;
        ``InvalidRequest`` for any other upload.
        """
        upload = self.get(upload_id)
        if upload.part_ids != tuple(part_ids) or upload.status is not UploadStatus.COMPLETED:
            raise _ended(upload)
        return upload

    def discard(self, file: StoredFile) -> None:
        """Drop bytes that ``join`` has stored."""
        self._blobs.remove(file.id)

    @contextmanager
    def as_path(self, file: StoredFile, place: Path) -> Iterator[Path]:
        """Give what ``join`` has stored a path at ``place`` for a while."""
        with self._blobs.as_path(file.id, place) as path:
            yield path

    def remove_expired(self) -> int:
        """End the uploads whose time has passed and drop their parts; return how many."""
        late = sa.select(UPLOADS.c.id).where(
            UPLOADS.c.status == UploadStatus.PENDING,
            UPLOADS.c.expires_at <= int(time.time()) - COMPLETING_SECONDS,
        )
        with self._database.write() as connection:
            found = list(connection.scalars(late))
            dropped = [_end(connection, upload_id, UploadStatus.EXPIRED) for upload_id in found]
        for part_ids in dropped:
            self._remove(part_ids)
        return len(found)

    def _content(self, part_ids: Sequence[str]) -> Iterator[bytes]:
        for part_id in part_ids:
            with self._blobs.open(part_id) as content:
                yield from chunks_of(content)

    def _stage(self, upload: Upload, content: Iterator[bytes]) -> StoredFile:
        draft = upload.draft
        try:
            return self._files.stage(draft.filename, draft.purpose, content, is_limited=False)
        except ServerError:  # a part is gone: the upload ended meanwhile, or it is our fault
            self.require_pending(upload.id)
            raise

    def _remove(self, part_ids: Iterable[str]) -> None:
        for part_id in part_ids:
            self._blobs.remove(part_id)


def _read(connection: sa.Connection, upload_id: str) -> Upload:
    row = connection.execute(sa.select(UPLOADS).where(UPLOADS.c.id == upload_id)).one_or_none()
    if row is None:
        raise UploadNotFound(upload_id)
    return upload_of(row)


def _end(connection: sa.Connection, upload_id: str, status: UploadStatus) -> list[str]:
    """Let an upload end; return the ids of its parts, whose rows are gone."""
    connection.execute(UPLOADS.update().where(UPLOADS.c.id == upload_id).values(status=status))
    parts = UPLOAD_PARTS.delete().where(UPLOAD_PARTS.c.upload_id == upload_id)
    return list(connection.scalars(parts.returning(UPLOAD_PARTS.c.id)))


def _require_pending(upload: Upload) -> None:
    if upload.status is not UploadStatus.PENDING:
        raise _ended(upload)


def _ended(upload: Upload) -> InvalidRequest:
    return InvalidRequest(
        f"Upload {upload.id} is {upload.status}: only a pending upload takes parts and can be "
        "completed or cancelled. Begin a new one.",
        param="upload_id",
    )


def _check_parts(upload: Upload, known: dict[str, UploadPart], part_ids: Sequence[str]) -> None:
    """Raise ``InvalidRequest`` unless the parts are the upload's, each once, and all its bytes."""
    unknown = [part_id for part_id in part_ids if part_id not in known]
    if unknown:
        raise InvalidValue(
            f"Invalid 'part_ids': {unknown[0][:100]!r} is no part of upload {upload.id}. "
            "Give the ids that its parts were answered with.",
            param="part_ids",
        )
    if len(set(part_ids)) < len(part_ids):
        raise InvalidValue(
            "Invalid 'part_ids': a part is named twice. Name each part once, in order.",
            param="part_ids",
        )
    size_bytes = sum(known[part_id].size_bytes for part_id in part_ids)
    if size_bytes != upload.draft.size_bytes:
        raise InvalidValue(
            f"Invalid 'part_ids': these {len(part_ids)} parts have {size_bytes} bytes, and the "
            f"upload was announced with {upload.draft.size_bytes}. Name all parts, or begin an "
            "upload with the right number of bytes.",
            param="part_ids",
        )


def _hashed(chunks: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
