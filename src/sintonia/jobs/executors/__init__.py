"""Where trainers run. An executor only has to run one command near the run directory."""

from __future__ import annotations

from typing import Protocol

from sintonia.runs.layout import RunFolder


class Executor(Protocol):
    """Launches trainers. A handle is a stored string, so a restarted worker adopts a live run."""

    def launch(self, run: RunFolder, attempt: int) -> str:
        """Start a trainer; return its handle."""
        ...

    def find(self, run: RunFolder, attempt: int) -> str | None:
        """Return the handle of a trainer that was launched, though nobody remembered it."""
        ...

    def is_alive(self, handle: str) -> bool:
        """Tell whether the trainer runs."""
        ...

    def ask_to_stop(self, handle: str) -> None:
        """Ask the trainer to save its work and end, and wait for nothing."""
        ...

    def stop(self, handle: str, grace_seconds: float) -> None:
        """Ask the trainer to end, kill it after ``grace_seconds``; return once it has gone."""
        ...
