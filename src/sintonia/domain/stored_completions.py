"""Chat completions that were kept on wish, to be read again and to be learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StoredCompletion:
    """One call of chat with all its answers."""

    id: str
    created_at: int
    """Unix seconds."""
    expires_at: int
    """From then on nobody finds it."""
    model: str
    """The name that answered: the snapshot of an alias."""
    request: Mapping[str, Any]
    """The parameters as they were sent, ``messages`` among them."""
    answer: Mapping[str, Any]
    """The whole answer as it was given, each of its choices."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None
    """Of the call; ``None`` when it came over no connection."""


@dataclass(frozen=True)
class CompletionFilter:
    """Which stored completions are meant; what is ``None`` or empty leaves none out."""

    models: tuple[str, ...] = ()
    """Any of these."""
    metadata: Mapping[str, str] | None = None
    """All of these pairs; an empty mapping means completions that have none."""
    created_after: int | None = None
    """Unix seconds; that second included."""
    created_before: int | None = None
    """Unix seconds; that second left out."""
    ids: tuple[str, ...] | None = None
