"""What is wrong with a data file: every problem counted, the first ones kept.

Memory stays bounded however broken a file is: beyond ``MAX_PROBLEMS_KEPT`` problems only the
count grows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sintonia.domain.datasets import MAX_PROBLEMS_KEPT, Problem

_SHOWN_CHARACTERS = 60
_JSON_TYPES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


def json_type(value: Any) -> str:
    """Return JSON's name for the type of a parsed ``value``."""
    return _JSON_TYPES[type(value)]


def quoted(value: Any) -> str:
    """Return ``value`` as JSON for a message, cut when it is long."""
    if isinstance(value, list | dict):
        return f"an {json_type(value)}"
    text = value[: _SHOWN_CHARACTERS + 1] if isinstance(value, str) else value
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."


@dataclass
class ProblemLog:
    """The problems of one file, in the order they were found."""

    kept: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, problem: Problem) -> None:
        """Count ``problem``, and keep it while there is room."""
        self.count += 1
        if len(self.kept) < MAX_PROBLEMS_KEPT:
            self.kept.append(problem)

    def extend(self, later: ProblemLog) -> None:
        """Count the problems of a later part of the file, and keep those there is room for."""
        self.count += later.count
        self.kept += later.kept[: MAX_PROBLEMS_KEPT - len(self.kept)]

    def row(self, line: int, number: int) -> RowLog:
        """Return the log of one row: example ``number`` on file line ``line``."""
        return RowLog(self, line, number, self.count)


@dataclass(slots=True)
class RowLog:
    """The problems of one row, or of one message of it; each gets its place."""

    log: ProblemLog
    line: int
    number: int
    count_before: int
    message: int | None = None
    """From 1; ``None`` when no message is meant."""
    path: str = ""
    """Where in the row the part lies that is meant, like ``messages[1]``; empty for the row."""
    part: str = ""
    """What messages call the key that the part belongs to; empty where it need not be said."""

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was found in this row so far."""
        return self.log.count == self.count_before

    def within(self, key: str) -> RowLog:
        """Return the log of what the row has under ``key``."""
        return replace(self, path=key, part=key)

    def of_message(self, message: int, key: str = "messages") -> RowLog:
        """Return the log of one message of the array that this part, or the row, has at ``key``."""
        part = self.part if key == "messages" else key
        path = f"{self.path}.{key}[{message - 1}]" if self.path else f"{key}[{message - 1}]"
        # Not with `replace`, which is slow: a file has millions of messages.
        return RowLog(self.log, self.line, self.number, self.count_before, message, path, part)

    def add(self, rule: str, field: str | None = None) -> None:
        """Add a problem whose text is ``Example N[, message M][ of PART] RULE``.

        ``field`` is a path within the part that is meant.
        """
        parts = (f"message {self.message}" if self.message is not None else "", self.part)
        place = " of ".join(part for part in parts if part)
        place = f"Example {self.number}" + (f", {place}" if place else "")
        field = _joined(self.path, field) or None
        self.log.add(Problem(f"{place} {rule}", self.line, self.message, field))

    def add_wrong_type(self, value: Any, path: str, expected: str) -> None:
        """Add the problem that the ``value`` at ``path`` is not what is ``expected``."""
        self.add(f"has {path} of type {json_type(value)}; it must be {expected}.", path)

    def refuse_extra(self, keys: Iterable[str], where: str | None = None) -> None:
        """Add one problem for each of ``keys``, which the object at path ``where`` may not have."""
        for key in keys:
            inside = f" in {where}" if where else ""
            short = key[:_SHOWN_CHARACTERS]
            self.add(
                f"contains an extra {quoted(key)}{inside}.", f"{where}.{short}" if where else short
            )


def _joined(path: str, field: str | None) -> str:
    return ".".join(part for part in (path, field) if part)
