r"""Rows of a JSON Lines file, streamed: each line once, bounded memory, nothing let through.

Lines end at ``b"\n"`` and nowhere else: U+2028, U+0085 and U+001C are text. A byte order mark
at the start is skipped, blank lines are no examples. A line that cannot be used becomes a
problem that names the example, the line and the rule; reading goes on with the next one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from sintonia.data import strict_json
from sintonia.data.parts import BLANK, BYTE_ORDER_MARK, Part
from sintonia.data.problems import ProblemLog, json_type
from sintonia.domain.datasets import Problem

MAX_LINE_BYTES = 4 * 1024 * 1024
"""The longest line that is parsed: about a million tokens."""

_CHUNK_BYTES = 256 * 1024
_MESSAGE_PATH = re.compile(r"messages\[(\d+)\]")
_NOT_JSON_LINES = (
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff|[\x01-\x7f]\0\0\0|\0\0\0[\x01-\x7f]"), "UTF-32 text"),
    (
        re.compile(rb"\xff\xfe|\xfe\xff|[\x01-\x7f]\0[\x01-\x7f]\0|\0[\x01-\x7f]\0[\x01-\x7f]"),
        "UTF-16 text",
    ),
    (re.compile(rb"\x1f\x8b"), "gzip data"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd data"),
    (re.compile(rb"PK\x03\x04"), "a zip archive or a spreadsheet"),
    (re.compile(rb"PAR1"), "a Parquet file"),
)
"""How files begin that are no JSON Lines at all; no JSON text begins like any of them."""
_MAKE_LINES = (
    "Write each example as one object on one line: python3 -c 'import json, sys; "
    "rows = json.load(sys.stdin); rows = rows if isinstance(rows, list) else [rows]; "
    "print(*map(json.dumps, rows), sep=chr(10))' < data.json > data.jsonl"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line that is not blank."""

    line: int
    """Line of the file, from 1."""
    number: int
    """Example of the file, from 1: blank lines are not counted."""
    value: dict[str, Any] | None
    """``None`` when the line was refused; the problem is in the log."""
    fingerprint: int
    """Equal for equal lines (64 bits); 0 for a refused line."""


class JsonlReader:
    """Iterates once over the rows of ``file``; refused ones go to ``problems`` as well.

    With a ``part`` the file holds only that part of a data file.
    """

    def __init__(self, file: BinaryIO, problems: ProblemLog, part: Part | None = None) -> None:
        self.num_rows = part.rows_before if part else 0
        """Rows of the data file so far, refused ones too."""
        self.is_json_lines = True
        """``False`` when the file's first bytes show that it is something else."""
        self._first_line = part.first_line if part else 1
        self._file = file
        self._problems = problems

    def __iter__(self) -> Iterator[Row]:
        content = self._file.readline(MAX_LINE_BYTES + 1)
        line = self._first_line
        if line == 1 and (other := _other_kind(content)):
            self._refuse_file(other, "Convert it and upload again.", 1)
            return
        while content:
            is_whole = len(content) <= MAX_LINE_BYTES or content.endswith(b"\n")
            if line == 1:
                content = content.removeprefix(BYTE_ORDER_MARK)
            content = content.rstrip(BLANK)
            if self.num_rows == 0 and (document := _document_kind(content.lstrip(BLANK))):
                self._refuse_file(document, _MAKE_LINES, line)
                return
            if not is_whole:
                self._skip_line()
                yield self._refused(line, f"line is longer than {MAX_LINE_BYTES:,} bytes")
            elif content:
                yield self._row(line, content)
            content = self._file.readline(MAX_LINE_BYTES + 1)
            line += 1

    def _skip_line(self) -> None:
        """Read to the end of a line in small pieces."""
        while piece := self._file.readline(_CHUNK_BYTES):
            if piece.endswith(b"\n"):
                return

    def _refuse_file(self, kind: str, remedy: str, line: int) -> None:
        """Note that the file is no JSON Lines."""
        self.is_json_lines = False
        text = f"The file is {kind}; it must be JSON Lines in UTF-8. {remedy}"
        self._problems.add(Problem(text, line=line))

    def _row(self, line: int, content: bytes) -> Row:
        try:
            text = _text(content)
            value = strict_json.decode(text)
        except json.JSONDecodeError as error:
            return self._refused(line, f"line contains invalid json: {error}{_hint(content)}")
        except ValueError as error:
            return self._refused(line, str(error))
        if not isinstance(value, dict):
            return self._refused(line, f"line holds a JSON {json_type(value)}, not an object")
        if found := strict_json.bad_text(text, value):
            path, rule = found
            return self._refused(line, f"{path or 'a key'} {rule}", field=path or None)
        self.num_rows += 1
        return Row(line, self.num_rows, value, _fingerprint(content))

    def _refused(self, line: int, rule: str, field: str | None = None) -> Row:
        self.num_rows += 1
        inside = _MESSAGE_PATH.match(field or "")
        text = f"Example {self.num_rows} cannot be parsed. Error: {rule} (line {line})"
        message = int(inside[1]) + 1 if inside else None
        self._problems.add(Problem(text, line, message, field))
        return Row(line, self.num_rows, None, 0)


def _fingerprint(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)


def _text(content: bytes) -> str:
    """Return a line as text. Raises ``ValueError`` whose text is the broken rule."""
    zero = content.find(b"\0")
    if zero >= 0:
        raise ValueError(f"line holds a NUL character at byte {zero + 1}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        at = error.start
        rule = f"line is not UTF-8: byte 0x{content[at]:02x} at position {at + 1}"
        raise ValueError(f"{rule}; save the file as UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError("line begins with a byte order mark; only the file may begin with one")
    return text


def _hint(content: bytes) -> str:
    """Say what a lone opening bracket means: a document spread over lines."""
    if content.strip() in (b"{", b"["):
        return "; each example must be one object on one line, without line breaks"
    return ""


def _document_kind(content: bytes) -> str | None:
    """Return what a file is whose first text shows that it is one JSON document."""
    if content.startswith(b"["):
        return "a JSON array"
    return "a JSON object spread over lines" if content == b"{" else None


def _other_kind(head: bytes) -> str | None:
    """Return what a file is whose first bytes show that it is no JSON Lines."""
    return next((kind for start, kind in _NOT_JSON_LINES if start.match(head)), None)
