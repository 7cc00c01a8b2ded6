"""What a caller may choose of a job beyond OpenAI's hyperparameters.

The one definition of these names and of their ranges: the API's ``sintonia`` object, the stored
job and the library read them here. ``None`` means not chosen; the plan then decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from sintonia.errors import InvalidRequest, InvalidValue, all_of

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
MAX_RANK = 1024
MAX_WEIGHT = 1e4
MAX_STEPS = 10_000_000
MIN_FOREST_TOKENS, MAX_FOREST_TOKENS = 64, 1_048_576


class LoraInit(StrEnum):
    """How an adapter begins; each begins as the base model itself."""

    KAIMING = "kaiming"
    """PEFT's default: A uniform, B zero."""
    GAUSSIAN = "gaussian"
    ORTHOGONAL = "orthogonal"
    PISSA = "pissa"
    """The largest singular vectors (Meng et al. 2024)."""
    OLORA = "olora"
    """A QR decomposition (Buyukakyuz 2024)."""


class Precision(StrEnum):
    """The type of numbers that the base's weights and the activations have."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Quantization(StrEnum):
    """How the base's frozen linear layers are kept while an adapter is trained over them."""

    NONE = "none"
    """As wide as ``precision`` says."""
    NF4 = "nf4"
    """In four bits (QLoRA, Dettmers et al. 2023)."""


class Tuning(StrEnum):
    """Which weights learn."""

    LORA = "lora"
    FULL = "full"


class OptimizerName(StrEnum):
    """The members of ``training/optimizers``."""

    ADAMW = "adamw"
    SGD = "sgd"
    ADAFACTOR = "adafactor"
    LION = "lion"
    MUON = "muon"


OPTIMIZER_DEFAULTS: Mapping[OptimizerName, Mapping[str, float]] = {
    OptimizerName.ADAMW: {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    OptimizerName.SGD: {"momentum": 0.9},
    OptimizerName.ADAFACTOR: {"epsilon": 1e-30},
    OptimizerName.LION: {"beta1": 0.9, "beta2": 0.99},
    OptimizerName.MUON: {"momentum": 0.95, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
}
"""The values that each optimizer has, beside those that all have, from its paper. Muon's betas
and epsilon are those of the AdamW that takes what is no matrix."""


class ScheduleName(StrEnum):
    """The members of ``training/schedules``."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    WSD = "wsd"


class Learn(StrEnum):
    """Which answers of a row are learned."""

    ALL = "all"
    LAST = "last"


_Flag = Annotated[bool, Field(strict=True)]
_Rank = Annotated[int, Field(strict=True, ge=1, le=MAX_RANK)]
_Steps = Annotated[int, Field(strict=True, ge=0, le=MAX_STEPS)]
_Count = Annotated[int, Field(strict=True, ge=1, le=1000)]
_Positive = Annotated[float, Field(strict=True, gt=0, le=MAX_WEIGHT)]
_Weight = Annotated[float, Field(strict=True, ge=0, le=MAX_WEIGHT)]
_Rate = Annotated[float, Field(strict=True, gt=0, le=100)]
_BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
_UpToOne = Annotated[float, Field(strict=True, ge=0, le=1)]
_Part = Annotated[float, Field(strict=True, gt=0, le=1)]
_Epsilon = Annotated[float, Field(strict=True, ge=1e-30, le=1)]
_ForestTokens = Annotated[int, Field(strict=True, ge=MIN_FOREST_TOKENS, le=MAX_FOREST_TOKENS)]
_Layer = Annotated[str, Field(strict=True, min_length=1, max_length=100)]
_Layers = Annotated[tuple[_Layer, ...], Field(strict=False, min_length=1, max_length=100)]


@dataclass(frozen=True)
class LoraChoices:
    """Low-rank adaptation (Hu et al. 2021)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    rank: _Rank | None = None
    alpha: _Positive | None = None
    """The update is scaled by ``alpha / rank``."""
    dropout: _BelowOne | None = None
    """Of the adapter's input while training."""
    targets: _Layers | None = None
    """Names of the linear layers that get an adapter, such as ``q_proj``."""
    rslora: _Flag | None = None
    """Scale by ``alpha / sqrt(rank)`` (Kalajdzievski 2023)."""
    init: Annotated[LoraInit, Field(strict=False)] | None = None


@dataclass(frozen=True)
class OptimizerChoices:
    """The optimizer; each has only some of these values."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Annotated[OptimizerName, Field(strict=False)] | None = None
    learning_rate: _Rate | None = None
    """The peak, instead of ``learning_rate_multiplier`` times the base model's own rate."""
    beta1: _BelowOne | None = None
    beta2: _BelowOne | None = None
    epsilon: _Epsilon | None = None
    momentum: _BelowOne | None = None
    weight_decay: _Weight | None = None
    """Decoupled; norms and biases never decay."""
    max_gradient_norm: _Weight | None = None
    """Gradients are scaled down to this norm; 0 leaves them."""


@dataclass(frozen=True)
class ScheduleChoices:
    """How the learning rate changes over the steps."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Annotated[ScheduleName, Field(strict=False)] | None = None
    warmup_steps: _Steps | None = None
    warmup_ratio: _UpToOne | None = None
    """Of all steps; instead of ``warmup_steps``."""
    decay_ratio: _Part | None = None
    """The last part of all steps, in which ``wsd`` decays."""
    floor: _UpToOne | None = None
    """The part of the peak that the rate decays to."""


@dataclass(frozen=True)
class EarlyStoppingChoices:
    """When training ends before its last epoch."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    patience: _Count | None = None
    """So many full validations without an improvement end it."""
    min_delta: _Weight | None = None
    """An improvement lowers the loss by more than this."""


def _early_stopping_tag(value: object) -> str:
    return "~object" if isinstance(value, Mapping | EarlyStoppingChoices) else "~word"


EarlyStoppingChoice = Annotated[
    Annotated[EarlyStoppingChoices, Tag("~object")]
    | Annotated[Literal["auto", False], Tag("~word")],
    Discriminator(_early_stopping_tag),
]
"""``false`` is never; ``"auto"`` is with a validation file and automatic epochs."""


@dataclass(frozen=True)
class Choices:
    """Everything of the ``sintonia`` object that decides how a job trains."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    tuning: Annotated[Tuning, Field(strict=False)] | None = None
    lora: LoraChoices | None = None
    optimizer: OptimizerChoices | None = None
    schedule: ScheduleChoices | None = None
    label_smoothing: _BelowOne | None = None
    """Supervised: the share of the target that all tokens of the vocabulary get. DPO: the share
    of the preferences that are taken to be wrong."""
    z_loss: _Weight | None = None
    """Supervised: the weight of ``log(Z)^2`` (Chowdhery et al. 2022)."""
    learn: Annotated[Learn, Field(strict=False)] | None = None
    """Supervised: every answer of a row or its last one only."""
    micro_batch_tokens: _ForestTokens | None = None
    """The most tokens that go through the model at once; never changes the result's meaning."""
    gradient_checkpointing: _Flag | None = None
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """``"auto"``: bfloat16 on a GPU that computes with it, float32 anywhere else."""
    quantization: Annotated[Quantization, Field(strict=False)] | None = None
    compile: _Flag | None = None
    """Let torch compile the layers; needs a C++ compiler where training runs."""
    early_stopping: EarlyStoppingChoice | None = None


@dataclass(frozen=True)
class Extension(Choices):
    """The whole ``sintonia`` object of a request."""

    truncate: _Flag | None = None
    """Cut rows longer than the model's context instead of refusing them."""

    @property
    def choices(self) -> Choices:
        """What of it decides how the job trains."""
        return Choices(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Choices)})


_EXTENSION = TypeAdapter(Extension)
_UNKNOWN_NAME = ("extra_forbidden", "unexpected_keyword_argument")
"""pydantic's types of findings whose place ends in the unknown name."""


def extension_of(values: Mapping[str, Any]) -> Extension:
    """Return ``values``, shaped like the ``sintonia`` object, as choices.

    Raises ``InvalidValue`` naming everything that is wrong with them.
    """
    extension, problems = read_extension(values)
    if problems:
        raise all_of(problems)
    return extension


def read_extension(values: Mapping[str, Any]) -> tuple[Extension, list[InvalidRequest]]:
    """Return what can be understood of ``values``, and an error for each value that cannot.

    So that what is wrong with the others is told with it.
    """
    errors: dict[str, InvalidRequest] = {}
    rest: Any = dict(values)
    while True:  # each round leaves out what it found; of nothing at all nothing is wrong
        try:
            return _EXTENSION.validate_python(rest), list(errors.values())
        except ValidationError as problem:
            findings = problem.errors(include_url=False)
        for finding in findings:
            parts = parts_of(finding)
            path = ".".join(map(str, parts))
            told = f"Setting {path} {finding['input']!r}: {finding['msg']}."
            errors.setdefault(path, InvalidValue(told, param=path))
            rest = without(rest, parts) or {}


def without(values: Any, location: Sequence[str | int]) -> Any:
    """Return ``values`` without what lies at ``location``; a list is left out as a whole."""
    if not location or not isinstance(values, Mapping):
        return None
    first, *inner = location
    rest = {name: value for name, value in values.items() if name != first}
    inside = without(values.get(first), inner) if inner else None
    return rest if inside is None else {**rest, first: inside}


def parts_of(finding: Mapping[str, Any]) -> list[str | int]:
    """Return where one of pydantic's findings is, without the tags of unions.

    A name that nobody knows is the caller's, whatever it begins with.
    """
    location = finding["loc"]
    is_name = finding["type"] in _UNKNOWN_NAME
    tags, name = (location[:-1], location[-1:]) if is_name else (location, ())
    return [*(part for part in tags if not str(part).startswith("~")), *name]
