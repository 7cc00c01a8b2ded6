"""The answers of one batch on disk, before they become files: each request's once.

Invariant: a record that ``add`` was told of survives a crash whole, and a request that has a
record never gets a second one. What a crash tore is cut off when the book is opened again, so the
request behind it counts as not answered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from sintonia import failpoints
from sintonia.api.translate.batches import Record, has_expired, is_answer, tally_of
from sintonia.data.requests import digest_of
from sintonia.domain.batches import BatchTally
from sintonia.sealed import sync_folder

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"


class AnswerBook:
    """Records of requests, in one file those that were answered and in one those that failed.

    To be written from one thread at a time, and open in one process at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.tally = BatchTally()
        self.num_expired = 0
        """How many requests the end of the window came before."""
        self._done: set[bytes] = set()
        self._output = _Log(folder / OUTPUT, self._take)
        self._errors = _Log(folder / ERRORS, self._take)
        sync_folder(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_done(self) -> int:
        """How many requests have a record."""
        return len(self._done)

    def has(self, custom_id: str) -> bool:
        """Tell whether a request has a record."""
        return digest_of(custom_id) in self._done

    def add(self, records: Sequence[Record]) -> None:
        """Write records; they are safe on disk when this returns."""
        failpoints.reach("batch.write")
        self._output.append([record for record in records if is_answer(record)])
        self._errors.append([record for record in records if not is_answer(record)])
        for record in records:
            self._take(record)

    def close(self) -> None:
        """Let go of the files."""
        self._output.close()
        self._errors.close()

    def _take(self, record: Record) -> None:
        self._done.add(digest_of(record["custom_id"]))
        self.num_expired += has_expired(record)
        self.tally = self.tally.plus(tally_of(record))


class _Log:
    """A file of records. Once it has been opened only whole ones are in it."""

    def __init__(self, path: Path, take: Callable[[Record], None]) -> None:
        self._file = path.open("ab", buffering=0)
        whole_bytes = 0
        with path.open("rb") as content:
            for line in content:
                record = _record(line)
                if record is None:
                    break
                take(record)
                whole_bytes += len(line)
        self._whole_bytes = whole_bytes
        self._cut()

    def append(self, records: Sequence[Record]) -> None:
        # ASCII only, so that a reader who takes U+2028 for a line's end is not misled.
        lines = [json.dumps(record, allow_nan=False).encode() + b"\n" for record in records]
        if not lines:
            return
        content = b"".join(lines)
        try:
            self._write(content)
        except OSError:
            self._cut()
            raise
        self._whole_bytes += len(content)

    def close(self) -> None:
        self._file.close()

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
        failpoints.reach("batch.sync")
        os.fsync(self._file.fileno())

    def _cut(self) -> None:
        """Take off what is not known to be whole."""
        self._file.truncate(self._whole_bytes)
        os.fsync(self._file.fileno())


def _record(line: bytes) -> Record | None:
    """Return the record of a line; ``None`` when a crash tore it."""
    if not line.endswith(b"\n"):
        return None
    try:
        value: Any = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "custom_id" in value else None
