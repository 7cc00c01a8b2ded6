"""Who else may use a tuned model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointPermission:
    """A project that may use a model."""

    id: str
    model: str
    project_id: str
    created_at: int
    """Unix seconds."""
