"""The vocabulary of the worker's side: what it claims, and what it hands to the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sintonia.domain.files import StoredFile
from sintonia.domain.jobs import EventLevel, Job
from sintonia.domain.models import Model


class Stage(StrEnum):
    """What there is to do for a job."""

    PREPARING = "preparing"
    """Check its files and plan its run (``validating_files``)."""
    RUNNING = "running"
    """Launch or adopt its trainer and follow it (``queued``, ``running``)."""
    STOPPING = "stopping"
    """It is over but its trainer may be alive: stop that one."""


class ClaimLost(Exception):
    """The claim is no longer this writer's, or the job has ended; nothing was changed."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, until the lease runs out.

    ``owner`` is unique to this claim, so a writer that slept through its lease can never be
    taken for the one that claimed the job after it.
    """

    job: Job
    """As it was when claimed or last changed through the claim."""
    stage: Stage
    owner: str
    lease_seconds: float
    attempt: int
    tuned_name: str | None
    """The name that the tuned model will have; drawn once, when the job is admitted."""
    import_offset: int
    """How many bytes of this attempt's records are in the store."""
    num_failures: int
    """Attempts in a row that ended badly without a newer point to resume from."""
    progress_step: int
    """The newest step that an attempt could resume from when the last one ended."""

    def failures_after(self, newest_step: int) -> int:
        """Return how many failures there are in a row once this attempt ended badly.

        An attempt that left a newer step to resume from than those before it starts anew.
        """
        return 0 if newest_step > self.progress_step else self.num_failures + 1


@dataclass(frozen=True)
class Lease:
    """Who holds a job."""

    job_id: str
    owner: str


@dataclass(frozen=True)
class Admission:
    """What preparing a job decided."""

    resolved: Mapping[str, Any]
    origins: Mapping[str, str]
    tuned_name: str


@dataclass(frozen=True)
class StepImport:
    """Metrics of one training step; the last import of a step wins."""

    step: int
    time: float
    data: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointImport:
    """A checkpoint that was written at ``step``."""

    step: int
    time: float
    metrics: Mapping[str, Any]
    model: Model | None = None
    """What it can be called by, its folder made; ``None``: it is gone from the run already."""
    kept: tuple[int, ...] = ()
    """The steps of all checkpoints that the trainer had then; none told: the newest ones."""


@dataclass(frozen=True)
class EventImport:
    """Something that the trainer said."""

    time: float
    level: EventLevel
    message: str
    verdict: Mapping[str, Any] | None = None
    """Where the message says what the curve means."""
    settled: Mapping[str, Any] | None = None
    """Where it says what became of settings that were left to the machine."""


Imported = StepImport | CheckpointImport | EventImport


@dataclass(frozen=True)
class ImportBatch:
    """What was read of an attempt's records since the last batch."""

    records: tuple[Imported, ...]
    end_offset: int
    """Where the next batch begins; stored in the same transaction as the records."""
    keep_checkpoints: int
    """How many checkpoints, the newest ones, a job lists when its trainer does not say which."""
    estimated_finish: int | None = None


@dataclass(frozen=True)
class Settlement:
    """Everything that appears when a job succeeds, in one transaction."""

    model: Model
    checkpoints: Mapping[int, Model]
    """By step. Checkpoints of other steps are no longer listed."""
    result_files: tuple[StoredFile, ...]
    """Their bytes are stored; their rows are not."""
    trained_tokens: int
