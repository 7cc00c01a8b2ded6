"""How a job trains: the method and what its caller chose of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from sintonia.domain.choices import Choices

AUTO: Literal["auto"] = "auto"
"""The value of a hyperparameter that the platform is to choose."""

IntOrAuto = int | Literal["auto"]
FloatOrAuto = float | Literal["auto"]


class MethodType(StrEnum):
    """OpenAI's names of the methods that are built."""

    SUPERVISED = "supervised"
    DPO = "dpo"


@dataclass(frozen=True)
class Hyperparameters:
    """OpenAI's hyperparameters, each a number or ``"auto"``."""

    n_epochs: IntOrAuto = AUTO
    """Passes over the training file, 1 to 50."""
    batch_size: IntOrAuto = AUTO
    """Rows per optimizer step, 1 to 256."""
    learning_rate_multiplier: FloatOrAuto = AUTO
    """Scales the base model's own learning rate from the catalog; above 0, at most 100."""
    beta: FloatOrAuto = AUTO
    """DPO: how closely the tuned model stays to its start; above 0, at most 2."""


@dataclass(frozen=True)
class Method:
    """A method with what its caller chose of it."""

    type: MethodType = MethodType.SUPERVISED
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    choices: Choices = field(default_factory=Choices)
