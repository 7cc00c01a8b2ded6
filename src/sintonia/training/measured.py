"""What a run fixed at its start: ``measured.json``.

Invariant: a value is written once, before it is used, and later attempts read it; so a resumed
run repeats an uninterrupted one. Only a run that ran out of memory changes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sintonia.runs.layout import RunFolder
from sintonia.sealed import read_json, write_json
from sintonia.training.turn import always

T = TypeVar("T")


class Measured:
    """The fixed values of one run."""

    def __init__(self, run: RunFolder, require_turn: Callable[[], None] = always) -> None:
        """``require_turn`` is asked before each write: it holds all values, not only the new."""
        self._path = run.measured
        self._require_turn = require_turn
        self._values: dict[str, Any] = read_json(self._path) if self._path.exists() else {}

    def fixed(self, name: str, measure: Callable[[], T]) -> T:
        """Return the value that was fixed, or measure it and fix it."""
        if name not in self._values:
            self.change(name, measure())
        value: T = self._values[name]
        return value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def change(self, name: str, value: Any) -> None:
        """Write a value that holds from now on."""
        self._require_turn()
        self._values[name] = value
        write_json(self._path, self._values)
