"""Sintonia: make GPT-style language models your own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sintonia.workflow import plan, pull, train, validate

__all__ = ["plan", "pull", "train", "validate"]


def __getattr__(name: str) -> Any:
    """Import the library's functions when they are first used."""
    if name in __all__:
        from sintonia import workflow

        return getattr(workflow, name)
    raise AttributeError(name)
