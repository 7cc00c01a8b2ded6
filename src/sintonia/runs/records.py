"""What a trainer says while it works: numbered JSON lines, and one exit record.

Numbers begin at 1 in each attempt. A step repeated after a resume is written again with the
same content; whoever imports records lets the later attempt replace the earlier one.

The exit record's room on the disk is taken when an attempt begins, so that a trainer that ends
because the disk is full can say so. Where not even that much was free, an empty file says it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from sintonia import failpoints
from sintonia.errors import InsufficientStorage
from sintonia.runs.layout import AttemptFolder, read_json, sync_folder
from sintonia.sealed import FULL_DISK

OUT_OF_MEMORY = "out_of_memory"
"""The code of an attempt that lacked memory; the next one needs half."""
MAKE_ROOM = (
    "Free space (`sintonia gc` shows what can go); the job resumes from its last checkpoint."
)
DISK_FULL = f"The disk is full. {MAKE_ROOM}"
EXIT_BYTES = 16 * 1024
"""Room that is kept for an exit record, whose message is what some library said."""


class RecordKind(StrEnum):
    """What a record tells."""

    STEP = "step"
    CHECKPOINT = "checkpoint"
    EVENT = "event"


@dataclass(frozen=True)
class Record:
    """One line of ``records.jsonl``.

    ``step``: ``data`` holds OpenAI's metric keys (``step``, ``total_steps``, ``train_loss``,
    ``train_mean_token_accuracy``, and ``valid_*``, ``full_valid_*`` where they were measured)
    and ``epoch``, ``learning_rate``, ``tokens_per_second``, ``trained_tokens``.
    ``checkpoint``: ``data`` holds ``step``, ``folder`` (relative to the run), ``metrics``, and in
    ``kept`` the steps of all checkpoints that there are now.
    ``event``: ``data`` holds ``level`` and ``message``; where it says what the curve means, also
    ``verdict`` with ``kind``, ``step`` and ``message``, and where it says what the machine chose,
    in ``settled`` the values of settings.
    """

    number: int
    kind: RecordKind
    time: float
    """Unix seconds."""
    data: Mapping[str, Any]


class ExitStatus(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ExitRecord:
    """``exit.json``: the last thing an attempt writes."""

    status: ExitStatus
    code: str | None = None
    message: str | None = None
    is_retryable: bool = False
    """Whether another attempt could do better (out of memory, a full disk)."""
    step: int = 0
    trained_tokens: int = 0
    model_folder: str | None = None
    """Folder of the checkpoint that is the model, relative to the run."""
    row_losses: str | None = None
    """The table of each row's losses, relative to the run."""
    metrics: Mapping[str, float] = field(default_factory=dict)


_NO_ROOM = ExitRecord(
    ExitStatus.FAILED, InsufficientStorage.default_code, DISK_FULL, is_retryable=True
)


class RecordWriter:
    """Appends records of one attempt; each line is one write, flushed at once."""

    def __init__(self, attempt: AttemptFolder) -> None:
        self._file: BinaryIO = attempt.records.open("ab")
        self._number = 0

    def write(self, kind: RecordKind, time: float, data: Mapping[str, Any]) -> None:
        """Append one record."""
        self._number += 1
        record = {"number": self._number, "kind": kind, "time": time, "data": dict(data)}
        failpoints.reach("record.write")
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


@dataclass(frozen=True)
class Tail:
    """Records read so far of one file: where the next read begins."""

    path: Path
    offset: int = 0

    def read(self) -> tuple[list[Record], Tail]:
        """Return whole new lines and the tail after them; a torn last line waits."""
        if not self.path.exists():
            return [], self
        with self.path.open("rb") as file:
            file.seek(self.offset)
            block = file.read()
        end = block.rfind(b"\n") + 1
        records = [_record(line) for line in block[:end].split(b"\n") if line]
        return records, dataclasses.replace(self, offset=self.offset + end)


def _record(line: bytes) -> Record:
    value = json.loads(line)
    return Record(value["number"], RecordKind(value["kind"]), value["time"], value["data"])


def reserve_exit(attempt: AttemptFolder) -> None:
    """Take the room that the exit record will need. Raises ``OSError`` when there is none."""
    with _reserved(attempt).open("wb") as file:
        file.write(b" " * EXIT_BYTES)
        file.flush()
        os.fsync(file.fileno())


def write_exit(attempt: AttemptFolder, record: ExitRecord) -> None:
    """Write ``exit.json``, atomically, into the room that was reserved for it if any was.

    Where there is none on a full disk, that is how the attempt ended, whatever ``record`` says.
    """
    reserved = _reserved(attempt)
    content = json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False).encode() + b"\n"
    try:
        failpoints.reach("exit.write")
        with reserved.open("r+b" if reserved.exists() else "wb") as file:
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        reserved.replace(attempt.exit)
    except OSError as problem:
        if problem.errno not in FULL_DISK:
            raise
        _full(attempt).touch()  # a name alone needs no room
    sync_folder(attempt.path)


def _reserved(attempt: AttemptFolder) -> Path:
    return attempt.path / ".exit.json.reserved"


def _full(attempt: AttemptFolder) -> Path:
    return attempt.path / "exit.disk-is-full"


def read_exit(attempt: AttemptFolder) -> ExitRecord | None:
    """Return how the attempt ended, or ``None`` when it has not said so."""
    if not attempt.exit.exists():
        return _NO_ROOM if _full(attempt).exists() else None
    value = read_json(attempt.exit)
    return ExitRecord(**{**value, "status": ExitStatus(value["status"])})
