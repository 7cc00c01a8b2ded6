"""What was brought over from another server: jobs as records, and the manifest's items.

An imported job is what its server said, kept as it came. It never runs here, so it has none of
the states of a job of ours; its facts beside the object are what lists and pages are made by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class ImportedJob:
    """A job of another server."""

    id: str
    created_at: int
    source: str
    """The base URL of that server."""
    object: Mapping[str, Any]
    """The whole job object, as it came."""


class ItemKind(StrEnum):
    """What an item of the manifest is."""

    FILE = "file"
    JOB = "job"


class ItemState(StrEnum):
    """How far an item has come."""

    LISTED = "listed"
    """The server has named it; it is still to be read."""
    OPEN = "open"
    """A job that is here, and had not ended there: the next run reads it again."""
    DONE = "done"
    """It is here, whole and checked."""
    LOST = "lost"
    """It could not be had; ``reason`` says why."""


@dataclass(frozen=True)
class Item:
    """One line of the manifest: something that another server has or had."""

    kind: ItemKind
    id: str
    source: str
    state: ItemState
    object: Mapping[str, Any] | None = None
    """As the server listed it; ``None`` for a file that only a job names."""
    reason: str | None = None
    """Why it could not be had, or what is to be known of what came."""
    size_bytes: int | None = None
    sha256: str | None = None
    """Of a file's content."""
