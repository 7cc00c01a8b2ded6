"""Everything that is wrong with a job, told at once: its model, its settings and both its files.

Invariant: what the caller can mend is collected here and ends the job once all of it is known;
faults of ours or of the machine are raised at once, since another try may go better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sintonia.domain.jobs import JobError
from sintonia.errors import InvalidRequest


@dataclass
class Refusals:
    """Why a job cannot be done, in the order it was found."""

    errors: list[JobError] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    """What events tell one by one, where an error is only a summary."""

    def __bool__(self) -> bool:
        return bool(self.errors)

    def add(self, error: JobError, details: Iterable[str] = ()) -> None:
        """Add one; ``details`` are all of what it sums up."""
        self.errors.append(error)
        self.details += details

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add what is raised that the caller can mend, and go on behind the block."""
        try:
            yield
        except InvalidRequest as problem:
            self.add(JobError(problem.code or "invalid_value", problem.message, problem.param))

    def error(self) -> JobError:
        """Return the first error with the messages of all."""
        first = self.errors[0]
        message = " ".join(error.message for error in self.errors)
        return JobError(first.code, message, first.param)
