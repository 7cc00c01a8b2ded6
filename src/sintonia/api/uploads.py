"""Multipart uploads: the file goes to disk while it arrives, in flat memory and within limits.

Invariant: what is refused or broken off leaves nothing on the disk; what a crash leaves in the
folder of uploads is cleared at the next start.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from anyio import to_thread
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from sintonia.api.bodies import drain
from sintonia.errors import InsufficientStorage, InvalidRequest, PayloadTooLarge

FOLDER = "uploads"
"""In the home: files that are arriving."""

_MAX_FIELD_BYTES = 4096
_MAX_FIELDS = 32


@dataclass(frozen=True)
class Upload:
    """A form that arrived whole."""

    fields: dict[str, str]
    filename: str | None
    """``None`` when the form had no file."""
    path: Path
    """The content, under a harmless form of its name; gone when the request ends."""


def clear_uploads(home: Path) -> None:
    """Remove what uploads of an earlier process left behind, and make the folder."""
    shutil.rmtree(home / FOLDER, ignore_errors=True)
    (home / FOLDER).mkdir()


@contextmanager
def arrival_folder(home: Path) -> Iterator[Path]:
    """Make a folder for something that is arriving; gone when the block ends."""
    with tempfile.TemporaryDirectory(dir=home / FOLDER) as folder:
        yield Path(folder)


@asynccontextmanager
async def receive_upload(
    request: Request, home: Path, max_bytes: int, *, part: str = "file"
) -> AsyncIterator[Upload]:
    """Receive a form with one file, in its part ``part``, into a folder of its own.

    Raises ``InvalidRequest``, ``PayloadTooLarge`` and ``InsufficientStorage``.
    """
    with arrival_folder(home) as folder:
        form = await _receive(request, folder / "part", _FileRule(part, max_bytes))
        path = folder / harmless(form.filename or "")
        (folder / "part").rename(path)
        yield Upload(form.fields, form.filename, path)


async def _receive(request: Request, path: Path, rule: _FileRule) -> _Form:
    boundary = _boundary(request)
    with path.open("wb") as file, _form_errors():
        form = _Form(file, rule)
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        body = request.stream()
        try:
            async for chunk in body:
                await to_thread.run_sync(parser.write, chunk)
            parser.finalize()
        except PayloadTooLarge:
            await drain(body)
            raise
        if not form.is_whole:  # the parser takes a form without its end, and half a file in it
            raise FormParserError
        return form


def harmless(filename: str) -> str:
    """Return a name for the disk that still tells a reader of messages which file is meant."""
    return re.sub(r"[^\w.-]", "_", filename).strip(".")[-100:] or "file"


@dataclass(frozen=True)
class _FileRule:
    """Which part of a form is the file, and how large it may be."""

    part: str
    max_bytes: int

    def too_large(self) -> PayloadTooLarge:
        remedies = {
            "file": "Split it, send it in parts through /v1/uploads, or have the operator raise "
            "max_file_bytes.",
            "data": "Send more and smaller parts.",
        }
        return PayloadTooLarge(
            f"'{self.part}' is larger than {self.max_bytes} bytes, the most that is accepted. "
            f"{remedies[self.part]}",
            param=self.part,
        )


@dataclass
class _Form:
    """Takes a form apart as the parser goes through it."""

    file: IO[bytes]
    rule: _FileRule
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    is_whole: bool = False
    """Whether the boundary that ends the form has come."""
    _size_bytes: int = 0
    _header: bytes = b""
    _value: bytes = b""
    _disposition: bytes = b""
    _name: str = ""
    _is_file: bool = False
    _data: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> dict[str, Any]:
        """Return what the parser is to call."""
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._disposition, self._data = b"", bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == self.rule.part and b"filename" in options
        if not self._is_file:
            return
        if self.filename is not None:
            raise InvalidRequest(
                "The form has two files. Upload one at a time.", param=self.rule.part
            )
        self.filename = options[b"filename"].decode("utf-8", "replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._data += data[start:end]
            _check(len(self._data) <= _MAX_FIELD_BYTES, f"Field '{self._name}' is too long.")
            return
        self._size_bytes += end - start
        if self._size_bytes > self.rule.max_bytes:
            raise self.rule.too_large()
        self.file.write(data[start:end])

    def _on_part_end(self) -> None:
        if self._is_file:
            return
        _check(len(self.fields) < _MAX_FIELDS, f"The form has over {_MAX_FIELDS} fields.")
        self.fields[self._name] = self._data.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.is_whole = True


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest(
            "Header Content-Type: a file is uploaded as multipart/form-data with a boundary, "
            "in the parts that the endpoint names.",
            code="invalid_content_type",
        )
    return options[b"boundary"]


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise InvalidRequest(f"{rule} Send only the parts that the endpoint names.")


@contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError:
        raise InvalidRequest(
            "The multipart form cannot be read: it is damaged or broken off. Send it again.",
            code="invalid_form",
        ) from None
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InsufficientStorage(
            "The disk is full; the file was not stored. Delete files or run `sintonia gc`."
        ) from None
