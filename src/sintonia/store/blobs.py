"""Bytes of files, through fsspec.

Invariant: under its id a blob is whole. It is written under a temporary name, synced, then
renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import fsspec

from sintonia import failpoints
from sintonia.errors import InsufficientStorage, PayloadTooLarge, ServerError

TEMPORARY = ".tmp-"
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """How much may be written."""

    max_file_bytes: int
    min_free_bytes: int


@dataclass(frozen=True)
class Written:
    """What was written."""

    size_bytes: int
    sha256: str


class Blobs:
    """One folder of blobs, named by ids that the product made."""

    def __init__(self, url: str, limits: Limits) -> None:
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._limits = limits
        self._is_local = self._fs.protocol[0] == "file"

    def prepare(self) -> None:
        """Make the folder."""
        self._fs.makedirs(self._root, exist_ok=True)

    def write(self, name: str, chunks: Iterable[bytes], *, is_limited: bool = True) -> Written:
        """Store ``chunks`` under ``name``; what the platform made itself need not be limited.

        Raises ``PayloadTooLarge`` or ``InsufficientStorage`` and leaves nothing behind.
        """
        temporary = self._path(TEMPORARY + name)
        with _disk_errors():
            try:
                written = self._write(temporary, chunks, is_limited=is_limited)
                failpoints.reach("file.rename")
                self._rename(temporary, self._path(name))
            except BaseException:
                self._remove(temporary)
                raise
        return written

    def open(self, name: str) -> BinaryIO:
        """Open a blob for reading. Raises ``ServerError`` when it is not there."""
        try:
            return cast("BinaryIO", self._fs.open(self._path(name), "rb"))
        except FileNotFoundError:
            raise ServerError(f"The content of {name} is missing from the file store.") from None

    def remove(self, name: str) -> None:
        """Remove a blob; one that is not there is no error."""
        self._remove(self._path(name))

    def names(self, older_than_seconds: float) -> dict[str, int]:
        """Return names and sizes in bytes of all blobs of at least that age, temporary ones too."""
        before = time.time() - older_than_seconds
        found = self._fs.ls(self._root, detail=True, refresh=True)
        return {
            entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0)
            for entry in found
            if entry["type"] == "file" and _modified_at(entry) <= before
        }

    @contextmanager
    def as_path(self, name: str, place: Path) -> Iterator[Path]:
        """Give a blob a path at ``place`` for a while; a local one is not copied."""
        if self._is_local:
            place.symlink_to(self._path(name))
        else:
            self._fs.get_file(self._path(name), str(place))
        try:
            yield place
        finally:
            place.unlink()

    def location(self, name: str) -> str:
        """Return where a blob lies, as an fsspec URL."""
        return str(self._fs.unstrip_protocol(self._path(name)))

    def _write(self, path: str, chunks: Iterable[bytes], *, is_limited: bool) -> Written:
        self._check_free_space()
        digest, size_bytes, unchecked_bytes = hashlib.sha256(), 0, 0
        with self._fs.open(path, "wb") as file:
            for chunk in chunks:
                size_bytes += len(chunk)
                unchecked_bytes += len(chunk)
                if is_limited:
                    self._check_size(size_bytes)
                if unchecked_bytes >= 16 * CHUNK_BYTES:
                    self._check_free_space()
                    unchecked_bytes = 0
                digest.update(chunk)
                failpoints.reach("file.write")
                file.write(chunk)
            if self._is_local:
                file.flush()
                os.fsync(file.fileno())
        return Written(size_bytes=size_bytes, sha256=digest.hexdigest())

    def _check_size(self, size_bytes: int) -> None:
        limit = self._limits.max_file_bytes
        if size_bytes > limit:
            raise PayloadTooLarge(
                f"The file is larger than {limit} bytes, the largest that is accepted. "
                "Split it, or have the operator raise max_file_bytes.",
                param="file",
            )

    def _check_free_space(self) -> None:
        if self._is_local and shutil.disk_usage(self._root).free < self._limits.min_free_bytes:
            raise InsufficientStorage(
                "The disk of the file store is nearly full; nothing was stored. "
                "Delete files or run `sintonia gc`."
            )

    def _rename(self, before: str, after: str) -> None:
        if not self._is_local:
            self._fs.mv(before, after)
            return
        os.replace(before, after)  # noqa: PTH105 - fsspec's paths are strings
        descriptor = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove(self, path: str) -> None:
        try:
            self._fs.rm_file(path)
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def chunks_of(content: Iterable[bytes] | BinaryIO) -> Iterator[bytes]:
    """Return the chunks of an open file or of an iterable of bytes."""
    if not hasattr(content, "read"):
        yield from content
        return
    file = cast("IO[bytes]", content)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _modified_at(entry: dict[str, Any]) -> float:
    """Return when an entry was changed; file systems call it by different names and types."""
    for key in ("mtime", "created", "LastModified", "last_modified"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InsufficientStorage(
            "The disk of the file store is full; nothing was stored. "
            "Delete files or run `sintonia gc`."
        ) from problem
