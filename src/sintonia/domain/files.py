"""Files that were uploaded or produced."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FilePurpose(StrEnum):
    """What a file is for; OpenAI's names."""

    ASSISTANTS = "assistants"
    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"
    FINE_TUNE_RESULTS = "fine-tune-results"
    BATCH_OUTPUT = "batch_output"
    ASSISTANTS_OUTPUT = "assistants_output"


_PRODUCED = (
    FilePurpose.FINE_TUNE_RESULTS,
    FilePurpose.BATCH_OUTPUT,
    FilePurpose.ASSISTANTS_OUTPUT,
)
UPLOADABLE = tuple(p for p in FilePurpose if p not in _PRODUCED)

DEFAULT_LIFE_SECONDS = {FilePurpose.BATCH: 30 * 24 * 3600}
"""How long a file lives when nothing else is asked for; others live until they are deleted."""
MIN_LIFE_SECONDS = 3600
MAX_LIFE_SECONDS = 30 * 24 * 3600


class FileStatus(StrEnum):
    """Whether the content was accepted; set before the first answer and never changed."""

    PROCESSED = "processed"
    ERROR = "error"


@dataclass(frozen=True)
class StoredFile:
    """One file. Its bytes lie in the file store under ``id``; ``filename`` is only a label."""

    id: str
    filename: str
    purpose: FilePurpose
    size_bytes: int
    sha256: str
    created_at: int
    """Unix seconds."""
    status: FileStatus = FileStatus.PROCESSED
    status_details: str | None = None
    expires_at: int | None = None
