"""Prompt/completion rows: ``{"prompt": "...", "completion": "..."}``, the completion is learned.

An empty prompt is allowed (the model then learns to begin by itself); an empty completion is
not, for it would teach the model to say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sintonia.data.problems import RowLog
from sintonia.domain.examples import CompletionExample
from sintonia.domain.methods import MethodType

NAME = "completion"
METHOD = MethodType.SUPERVISED
_KEYS = ("prompt", "completion")


def matches(row: Mapping[str, Any]) -> bool:
    """Tell by its keys whether ``row`` is a prompt/completion pair."""
    return any(key in row for key in _KEYS)


def parse(row: Mapping[str, Any], log: RowLog) -> CompletionExample | None:
    """Return the pair, or ``None`` when problems of the row were added to ``log``."""
    log.refuse_extra(key for key in row if key not in _KEYS)
    for key in _KEYS:
        if key not in row:
            log.add(f"is missing key '{key}'.", key)
        elif not isinstance(row[key], str):
            log.add_wrong_type(row[key], key, "a string")
    if row.get("completion") == "":
        log.add("has an empty completion; there is nothing to learn from it.", "completion")
    if not log.is_clean:
        return None
    return CompletionExample(prompt=row["prompt"], completion=row["completion"])
