"""The fine-tunes of OpenAI's first API (``/v1/fine-tunes``) on the wire."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from sintonia.api.schemas.files import FileObject
from sintonia.api.schemas.jobs import Suffix
from sintonia.api.schemas.methods import BatchSize, Multiplier, NEpochs
from sintonia.api.schemas.wire import StrictRequest, Wire


class FineTuneRequest(StrictRequest):
    """Parameters of ``POST /v1/fine-tunes``; the last five are accepted and do nothing."""

    training_file: str = Field(min_length=1, max_length=100)
    validation_file: str | None = Field(default=None, min_length=1, max_length=100)
    model: str = Field(default="curie", min_length=1, max_length=256)
    n_epochs: NEpochs | None = None
    batch_size: BatchSize | None = None
    learning_rate_multiplier: Multiplier | None = None
    suffix: Suffix | None = None
    prompt_loss_weight: Any = None
    compute_classification_metrics: Any = None
    classification_n_classes: Any = None
    classification_positive_class: Any = None
    classification_betas: Any = None


class HyperparamsObject(Wire):
    """``hyperparams`` in an answer: numbers, ``null`` until they are decided."""

    n_epochs: int | None
    batch_size: int | None
    learning_rate_multiplier: float | None
    prompt_loss_weight: float = 0.0
    """Prompts are never learned here."""


class FineTuneEvent(Wire):
    """One line of a fine-tune's history."""

    object: Literal["fine-tune-event"] = "fine-tune-event"
    created_at: int
    level: str
    message: str


class FineTuneObject(Wire):
    """A job as the first API showed it."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"events"})

    id: str
    object: Literal["fine-tune"] = "fine-tune"
    model: str
    created_at: int
    updated_at: int
    fine_tuned_model: str | None
    hyperparams: HyperparamsObject
    organization_id: str
    status: Literal["pending", "running", "succeeded", "failed", "cancelled"]
    training_files: list[FileObject]
    validation_files: list[FileObject]
    result_files: list[FileObject]
    events: list[FineTuneEvent] | None = None
    """Of one fine-tune; a list of them leaves these out."""


class FineTuneList(Wire):
    """A whole list: the first API had no pages."""

    object: Literal["list"] = "list"
    data: list[FineTuneObject]


class FineTuneEventList(Wire):
    """All events of a fine-tune, the oldest first."""

    object: Literal["list"] = "list"
    data: list[FineTuneEvent]
