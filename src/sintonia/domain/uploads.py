"""Files that arrive in parts.

An upload waits for its parts for an hour; completed, it has become a file and takes no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sintonia.domain.files import FilePurpose

LIFE_SECONDS = 3600
"""How long an upload waits to be completed."""
MAX_PART_BYTES = 64 * 1024 * 1024


class UploadStatus(StrEnum):
    """Where an upload is; it leaves ``pending`` once."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class UploadDraft:
    """What is to arrive, and the file that it is to become."""

    filename: str
    purpose: FilePurpose
    size_bytes: int
    mime_type: str
    file_life_seconds: int | None = None
    """How long the file lives from its making; ``None``: as its purpose says."""


@dataclass(frozen=True)
class Upload:
    """An upload."""

    id: str
    draft: UploadDraft
    status: UploadStatus
    created_at: int
    """Unix seconds."""
    expires_at: int
    part_ids: tuple[str, ...] = ()
    """The parts of a completed one, in order."""
    file_id: str | None = None
    """The file that a completed one became."""


@dataclass(frozen=True)
class UploadPart:
    """A part that has arrived whole. Its bytes lie in the file store under ``id``."""

    id: str
    upload_id: str
    size_bytes: int
    created_at: int
