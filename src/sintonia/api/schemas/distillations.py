"""Distillations on the wire: an extension of this platform, in OpenAI's style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from sintonia.api.schemas.files import FileObject
from sintonia.api.schemas.jobs import JobObject, Metadata
from sintonia.api.schemas.wire import StrictRequest, Wire

CompletionId = Annotated[str, Field(min_length=1, max_length=100)]
UnixSeconds = Annotated[int, Field(ge=0, lt=2**53)]


class DistillationRequest(StrictRequest):
    """Parameters of ``POST /v1/sintonia/distillations``."""

    model: str | None = Field(default=None, min_length=1, max_length=256)
    metadata: Metadata | None = None
    created_after: UnixSeconds | None = None
    """That second included."""
    created_before: UnixSeconds | None = None
    """That second left out."""
    ids: list[CompletionId] | None = Field(default=None, min_length=1, max_length=1000)
    limit: int | None = Field(default=None, ge=1, lt=2**53)
    """At most so many completions, the newest."""
    choices: Literal["first", "all"] = "first"
    """Whether a completion gives one row, or one for each of its answers."""
    deduplicate: bool = False
    """Whether the same row is written once only."""
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of the rows that goes into a second file."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Chooses which rows; rows with the same prompt go together."""
    filename: str = Field(default="distilled.jsonl", min_length=1, max_length=200)
    job: dict[str, Any] | None = None
    """The parameters of a fine-tuning job to begin, without its files."""


class DistillationCounts(Wire):
    """What became of the stored completions."""

    matched: int
    """Completions that the filters let through."""
    written: int
    """Rows of both files."""
    training: int
    validation: int
    left_out: Mapping[str, int]
    """Answers that became no row, by reason: ``cut_off``, ``empty``, ``invalid``, ``duplicate``."""


class DistillationObject(Wire):
    """Files made of stored completions, and the job that learns from them."""

    object: Literal["distillation"] = "distillation"
    created_at: int
    training_file: FileObject
    validation_file: FileObject | None
    counts: DistillationCounts
    job: JobObject | None
