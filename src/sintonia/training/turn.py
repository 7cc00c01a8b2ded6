"""Whose turn it is to write what the attempts of a run share.

The run's lock keeps attempts apart. Should it be lost, as some network file systems lose it, this
is asked before anything shared is written or removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from sintonia.errors import AlreadyRunning
from sintonia.runs.layout import AttemptFolder, RunFolder


@dataclass(frozen=True)
class Turn:
    """The turn of one attempt; it ends when a later one has held the lock."""

    run: RunFolder
    attempt: AttemptFolder

    def require(self) -> None:
        """Raise ``AlreadyRunning`` when a later attempt has said something."""
        later = (AttemptFolder(path) for path in self.run.path.glob("attempt-*"))
        if any(a.number > self.attempt.number and a.records.exists() for a in later):
            raise AlreadyRunning(
                "A later attempt has taken the run over; this one wrote nothing more."
            )


def always() -> None:
    """Stand for the turn of the only attempt that there is."""
