"""Batches: files of requests that are answered when there is room, and how a batch may move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

WINDOW = "24h"
"""The only completion window there is."""
WINDOW_SECONDS = 24 * 3600


class BatchStatus(StrEnum):
    """Where a batch stands; OpenAI's names."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Tell whether the batch has ended for good."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING}
    ),
    BatchStatus.IN_PROGRESS: frozenset(
        {BatchStatus.FINALIZING, BatchStatus.FAILED, BatchStatus.CANCELLING}
    ),
    BatchStatus.FINALIZING: frozenset(
        {BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.FAILED}
    ),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}
"""The whole state machine: from each status, where a batch may go."""


@dataclass(frozen=True)
class BatchDraft:
    """What a caller may choose of a batch, checked."""

    input_file_id: str
    endpoint: str
    """The path that every line is meant for."""
    completion_window: str = WINDOW
    metadata: Mapping[str, str] | None = None
    output_seconds: int | None = None
    """How long the files of answers are kept; ``None``: until they are deleted."""


@dataclass(frozen=True)
class BatchProblem:
    """One thing wrong with a batch as a whole, or with a line of its input."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """Line of the file, from 1."""


@dataclass(frozen=True)
class BatchTally:
    """What became of the requests so far."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, other: BatchTally) -> BatchTally:
        """Return the sum of both."""
        return BatchTally(
            completed=self.completed + other.completed,
            failed=self.failed + other.failed,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True)
class Batch:
    """A stored batch."""

    id: str
    draft: BatchDraft
    status: BatchStatus
    created_at: int
    expires_at: int
    """When its window ends; what is not answered by then never will be."""
    entered_at: Mapping[BatchStatus, int] = field(default_factory=dict)
    """When it came to each status that it has been in."""
    model: str | None = None
    """Which model answers; known once the file has been checked."""
    num_requests: int = 0
    """0 until the file has been checked."""
    tally: BatchTally = field(default_factory=BatchTally)
    problems: tuple[BatchProblem, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None

    def has_run_out(self, now: float) -> bool:
        """Tell whether the window is over."""
        return now >= self.expires_at
