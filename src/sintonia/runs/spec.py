"""``TrainSpec``: everything a run needs, with no ``auto`` and nothing left to decide.

Each value that was chosen remembers its origin: ``given`` by the caller, ``derived`` from the
data, ``inherited`` from the base model or the parent, or ``default``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter

from sintonia.domain.choices import (
    OPTIMIZER_DEFAULTS,
    LoraInit,
    OptimizerName,
    Precision,
    Quantization,
    ScheduleName,
    Tuning,
)
from sintonia.domain.models import BaseRef
from sintonia.runs.layout import write_json

__all__ = [
    "AdapterRef",
    "DataRef",
    "DpoSettings",
    "EarlyStopping",
    "LoraInit",
    "LoraSettings",
    "OptimizerName",
    "OptimizerSettings",
    "Origin",
    "Precision",
    "Quantization",
    "ScheduleName",
    "ScheduleSettings",
    "SftSettings",
    "TrainSpec",
    "Tuning",
    "read_spec",
]


class Origin(StrEnum):
    """Where a value comes from."""

    GIVEN = "given"
    DERIVED = "derived"
    INHERITED = "inherited"
    DEFAULT = "default"


@dataclass(frozen=True)
class DataRef:
    """A data file of the run."""

    path: str
    """Absolute, or relative to the run's folder."""
    sha256: str
    num_examples: int
    file_id: str | None = None


@dataclass(frozen=True)
class AdapterRef:
    """A tuned model that training continues from."""

    model: str
    folder: str
    sha256: str


@dataclass(frozen=True)
class SftSettings:
    """What supervised tuning learns."""

    learns_last_only: bool = False
    """Only the last assistant turn of each row, instead of all of them."""
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    """Weight of ``log(Z)^2`` (Chowdhery et al. 2022)."""


@dataclass(frozen=True)
class DpoSettings:
    """Direct preference optimization (Rafailov et al. 2023)."""

    beta: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends before its last epoch."""

    patience: int = 2
    """So many full validations without an improvement end it."""
    min_delta: float = 0.0
    """An improvement lowers the loss by more than this."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by ``alpha / rank``."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter."""
    dropout: float = 0.0
    """Of the adapter's input while training; above 0 no prefix is shared and nothing merged."""
    use_rslora: bool = False
    """Scale by ``alpha / sqrt(rank)`` (Kalajdzievski 2023)."""
    init: LoraInit = LoraInit.KAIMING


@dataclass(frozen=True)
class OptimizerSettings:
    """One of ``training/optimizers``; a value that it does not have is ``None``."""

    learning_rate: float
    """The peak of the schedule."""
    name: OptimizerName
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    momentum: float | None = None
    weight_decay: float = 0.0
    """Decoupled, in units of the learning rate; norms and biases do not decay."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""

    @classmethod
    def usual(
        cls, learning_rate: float, name: OptimizerName = OptimizerName.ADAMW
    ) -> OptimizerSettings:
        """Return an optimizer with its default values."""
        return cls(learning_rate, name, **OPTIMIZER_DEFAULTS[name])


@dataclass(frozen=True)
class ScheduleSettings:
    """One of ``training/schedules``, after a linear warm-up."""

    warmup_steps: int
    name: ScheduleName = ScheduleName.LINEAR
    decay_steps: int = 0
    """The last steps of the run, in which ``wsd`` decays."""
    floor: float = 0.0
    """The part of the peak that the rate decays towards."""


@dataclass(frozen=True)
class TrainSpec:
    """A fully resolved training run."""

    run_id: str
    """The job's id; for a run without a platform a hash of the plan."""
    objective: str
    """A member of ``objectives/``."""
    base: BaseRef
    template_sha256: str
    """Of the chat template that renders the rows; the tuned model carries it."""
    training: DataRef
    validation: DataRef | None
    parent: AdapterRef | None
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    total_steps: int
    lora: LoraSettings | None
    """``None``: every weight of the base is trained."""
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    seed: int
    context_tokens: int
    truncate: bool
    """Cut rows longer than the context instead of refusing them."""
    micro_batch_tokens: int
    """The most tokens that one forest may hold."""
    validate_every_steps: int
    """How often the loss on one batch of validation rows is measured; 0 means never."""
    sft: SftSettings = SftSettings()
    dpo: DpoSettings = DpoSettings()
    early_stopping: EarlyStopping | None = None
    precision: Precision = Precision.FLOAT32
    """Unless its origin is ``given``, the trainer takes what is usual for its device."""
    quantization: Quantization = Quantization.NONE
    """Of the base's frozen linear layers."""
    compile: bool = False
    """Let torch compile the layers."""
    gradient_checkpointing: bool = False
    keep_checkpoints: int = 3
    snapshot_seconds: float = 120.0
    threads: int = 0
    """Of all processes on a machine; 0 means one for each core, fixed in ``measured.json`` at the
    first start."""
    cache_folder: str = ""
    """Where encoded rows are kept between runs; empty means inside the run."""
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, dataclasses.asdict(self))


_ADAPTER = TypeAdapter(TrainSpec)


def read_spec(path: Path) -> TrainSpec:
    """Read a spec. Raises pydantic's ``ValidationError`` for one that was not written by us."""
    return _ADAPTER.validate_json(path.read_bytes())
