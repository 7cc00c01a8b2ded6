"""Fine-tuning jobs on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from sintonia.api.schemas.methods import (
    HyperparametersObject,
    HyperparametersRequest,
    MethodObject,
    MethodRequest,
)
from sintonia.api.schemas.wire import StrictRequest, Wire
from sintonia.domain.choices import Extension
from sintonia.domain.models import slug

CHECKPOINT_METRICS = tuple(
    f"{rows}_{measure}"
    for rows in ("train", "valid", "full_valid")
    for measure in (
        "loss",
        "mean_token_accuracy",
        "reward_accuracy",
        "reward_margin",
        "reward_chosen",
        "reward_rejected",
    )
)
"""What OpenAI tells of a checkpoint; the rewards are of ``dpo`` alone."""


def _has_a_name(suffix: str) -> str:
    if not slug(suffix):
        raise ValueError("it must hold at least one letter or digit, since it becomes a name.")
    return suffix


Suffix = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_has_a_name)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class JobRequest(StrictRequest):
    """Parameters of ``POST /v1/fine_tuning/jobs``; the last six are accepted and do nothing."""

    model: str = Field(min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=100)
    validation_file: str | None = Field(default=None, min_length=1, max_length=100)
    hyperparameters: HyperparametersRequest | None = None
    method: MethodRequest | None = None
    suffix: Suffix | None = None
    seed: int | None = Field(default=None, ge=0, le=2147483647)
    metadata: Metadata | None = None
    integrations: list[Any] | None = Field(default=None, max_length=5)
    sintonia: Extension | None = None
    prompt_loss_weight: Any = None
    compute_classification_metrics: Any = None
    classification_n_classes: Any = None
    classification_positive_class: Any = None
    classification_betas: Any = None
    trainingType: Any = None


class JobErrorObject(Wire):
    """Why a job failed; all ``null`` while it has not."""

    code: str | None = None
    message: str | None = None
    param: str | None = None


class JobExtension(Wire):
    """What this platform tells beyond OpenAI's fields."""

    waiting_behind: int
    """How many jobs run or wait before this one."""
    base_model: str
    """The local model behind the name that was asked for."""
    origins: Mapping[str, str] | None
    """For each value: given, derived, inherited or default."""
    asked: Mapping[str, Any]
    """What was chosen in ``sintonia``."""
    settings: Mapping[str, Any]
    """What was chosen in ``sintonia`` until the files are checked, then every value."""
    attempt: int
    """How many times training was started."""
    truncate: bool
    """Whether rows longer than the context are cut."""
    verdict: Mapping[str, Any] | None
    """What the curve means so far: ``kind``, since which ``step``, and a ``message``."""


class JobObject(Wire):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    hyperparameters: HyperparametersObject | None
    """Of a supervised job alone, as OpenAI has it; ``method`` has those of every method."""
    method: MethodObject
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobErrorObject
    user_provided_suffix: str | None
    usage_metrics: None = None
    shared_with_openai: Literal[False] = False
    eval_id: None = None
    """These three tell nothing here; notebooks print them, so they are there."""
    seed: int
    integrations: list[Any]
    metadata: Mapping[str, str] | None
    sintonia: JobExtension


class EventObject(Wire):
    """One line of a job's history."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: Mapping[str, Any] | None


class CheckpointObject(Wire):
    """A model saved at the end of an epoch."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    step_number: int
    fine_tuning_job_id: str
    metrics: Mapping[str, int | float]
    """Those of ``CHECKPOINT_METRICS`` that were measured, and ``step``, a whole number."""


class ImportedJobObject(Wire):
    """A job that was brought over: whatever its server said of it, in the shape of a job."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    object: Any = "fine_tuning.job"
    created_at: int
    finished_at: Any = None
    model: Any = None
    fine_tuned_model: Any = None
    organization_id: Any = ""
    status: Any = None
    hyperparameters: Any = None
    training_file: Any = None
    validation_file: Any = None
    result_files: Any = ()
    trained_tokens: Any = None
    error: Any = None
    seed: Any = None
    sintonia: Mapping[str, Any]
    """``imported_from``, beside what the server said itself if it is one of ours."""


class ImportedLine(Wire):
    """An event or a checkpoint of a job that was brought over, as it came."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str


AnyJobObject = JobObject | ImportedJobObject
AnyEventObject = EventObject | ImportedLine
AnyCheckpointObject = CheckpointObject | ImportedLine
