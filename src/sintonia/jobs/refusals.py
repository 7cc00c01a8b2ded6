"""Everything that is wrong with a job, told at once: its model, its settings and both its files.

Invariant: what the caller can mend is collected here and ends the job once all of it is known;
faults of ours or of the machine are raised at once, since another try may go better.
"""

from __future__ import annotations

from collections.abc import Iterable

from sintonia.domain.jobs import JobError
from sintonia.errors import InvalidRequest, Problems, all_of


class Refusals(Problems):
    """Why a job cannot be done, in the order it was found."""

    def __init__(self) -> None:
        super().__init__()
        self.details: list[str] = []
        """What events tell one by one, where an error is only a summary."""

    def add(self, problem: InvalidRequest, details: Iterable[str] = ()) -> None:
        """Add one; ``details`` are all of what it sums up."""
        self.found.append(problem)
        self.details += details

    def error(self) -> JobError:
        """Return the first with the messages of all."""
        problem = all_of(self.found)
        return JobError(problem.code or "invalid_value", problem.message, problem.param)
