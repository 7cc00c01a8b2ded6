"""A data file in parts of whole lines, so that several processes can read it at once.

Invariant: the parts hold every byte once and in order, and each knows which line and which row it
begins with, so that what is read from it tells the same places as the whole file would. However
long a line is, no more than a part's usual size is held in memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sintonia.errors import InvalidValue

PART_BYTES = 1024 * 1024
FIRST_PART_BYTES = 64 * 1024
"""The first part tells the file's format, which the others are read by."""
BLANK = b" \t\r\n"
"""A line of nothing else is no row."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Skipped at the start of a file."""

_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """Some whole lines of a file."""

    offset: int
    size_bytes: int
    first_line: int
    """From 1."""
    rows_before: int
    """Rows of the file that come before: lines that are not blank."""


class Splitter:
    """Iterates once over the parts of ``file``, measuring and hashing it on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.size_bytes = 0
        """Bytes read so far; all of them once the iteration has ended."""
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hash of the bytes read so far."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[Part]:
        line, rows, wanted = 1, 0, FIRST_PART_BYTES
        while content := self._take(self._file.read(wanted)):
            offset = self.size_bytes - len(content)
            lines = content.removeprefix(BYTE_ORDER_MARK if offset == 0 else b"").split(b"\n")
            has_text = bool(lines.pop().strip(BLANK))
            num_lines = len(lines)
            num_rows = sum(1 for text in lines if text.strip(BLANK))
            if not content.endswith(b"\n"):
                num_lines += 1
                num_rows += self._end_line() or has_text
            yield Part(offset, self.size_bytes - offset, line, rows)
            line, rows, wanted = line + num_lines, rows + num_rows, PART_BYTES

    def drain(self) -> None:
        """Read to the end, for size and hash, what needs no parts any more."""
        while self._take(self._file.read(PART_BYTES)):
            pass

    def _end_line(self) -> bool:
        """Read to the end of a line, and tell whether more than blanks came."""
        has_text = False
        while piece := self._take(self._file.readline(_PIECE_BYTES)):
            has_text = has_text or bool(piece.strip(BLANK))
            if piece.endswith(b"\n"):
                break
        return has_text

    def _take(self, content: bytes) -> bytes:
        self.size_bytes += len(content)
        self._digest.update(content)
        return content


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a data file. Raises ``InvalidValue`` when it cannot be."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidValue(
            f"File {path}: it cannot be read ({error.strerror}). Give the path of a readable file."
        ) from None
    with file:
        yield file


@contextmanager
def open_part(path: Path, part: Part) -> Iterator[BinaryIO]:
    """Open a file that ends where ``part`` does, at its beginning."""
    with open_file(path) as file:
        file.seek(part.offset)
        yield io.BufferedReader(_Slice(file, part.size_bytes), _PIECE_BYTES)


class _Slice(io.RawIOBase):
    """The next ``size_bytes`` of a file."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._left = size_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        return len(content)
