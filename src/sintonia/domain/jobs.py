"""Fine-tuning jobs: what a caller asks for, what is stored, and how a job may move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sintonia.domain.methods import Method


class JobStatus(StrEnum):
    """Where a job stands; OpenAI's names."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Tell whether the job has ended for good."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING_FILES: frozenset(
        {JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.PAUSING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    # Its trainer saves the step it is in; it may as well have done its last one.
    JobStatus.PAUSING: frozenset(
        {JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
"""The whole state machine: from each status, where a job may go."""


def statuses_before(after: JobStatus) -> frozenset[JobStatus]:
    """Return the statuses from which a job may move to ``after``."""
    return frozenset(status for status in JobStatus if after in TRANSITIONS[status])


def check_transition(before: JobStatus, after: JobStatus) -> None:
    """Assert that a job may move from ``before`` to ``after``."""
    assert after in TRANSITIONS[before], f"a job cannot go from {before} to {after}"


@dataclass(frozen=True)
class JobError:
    """Why a job failed, as the API shows it."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class JobDraft:
    """What a caller may choose of a job, checked."""

    model: str
    """The name to show and to build the tuned model's name from: a snapshot or a base name."""
    base_model: str
    """The local base model that is trained: a name of the catalog or of an added model."""
    training_file: str
    method: Method = field(default_factory=Method)
    parent_model: str | None = None
    """The ``ft:`` model or checkpoint that training continues from."""
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] | None = None
    truncate: bool = False
    """Cut rows longer than the model's context instead of refusing them."""


@dataclass(frozen=True)
class Job:
    """A stored job."""

    id: str
    draft: JobDraft
    status: JobStatus
    seed: int
    """The caller's seed, or the one drawn when the job was made."""
    created_at: int
    finished_at: int | None = None
    estimated_finish: int | None = None
    """Unix seconds; filled while the job runs."""
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    result_files: tuple[str, ...] = ()
    error: JobError | None = None
    resolved: Mapping[str, Any] | None = None
    """``n_epochs``, ``batch_size``, ``learning_rate_multiplier`` once ``auto`` has ended."""
    origins: Mapping[str, str] | None = None
    """For each resolved setting: given, derived, inherited or default."""
    attempt: int = 0
    """How many trainers were launched; the fencing token."""
    handle: str | None = None
    """The executor's handle of the live trainer."""
    waiting_behind: int = 0
    """How many jobs run or wait before this one; 0 when it is next, running or over."""
    verdict: Mapping[str, Any] | None = None
    """What its curve means so far: ``kind``, ``step`` and ``message``."""


class EventLevel(StrEnum):
    """How serious an event is."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class EventType(StrEnum):
    """What an event carries."""

    MESSAGE = "message"
    METRICS = "metrics"


@dataclass(frozen=True)
class JobEvent:
    """One line of a job's history."""

    id: str
    job_id: str
    created_at: int
    level: EventLevel
    message: str
    type: EventType = EventType.MESSAGE
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JobCheckpoint:
    """A model saved at the end of an epoch, callable under its own name."""

    id: str
    job_id: str
    created_at: int
    model: str
    """``ft:...:ckpt-step-N``."""
    step: int
    metrics: Mapping[str, float]
