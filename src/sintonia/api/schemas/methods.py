"""Training methods and their hyperparameters on the wire."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from sintonia.api.schemas.wire import StrictRequest, Wire


def _auto_tag(value: object) -> str:
    return "~auto" if isinstance(value, str) else "~number"


_Auto = Annotated[Literal["auto"], Tag("~auto")]
_IntUpTo50 = Annotated[int, Field(ge=1, le=50), Tag("~number")]
_IntUpTo256 = Annotated[int, Field(ge=1, le=256), Tag("~number")]
_UpTo100 = Annotated[float, Field(gt=0, le=100), Tag("~number")]
_UpTo2 = Annotated[float, Field(gt=0, le=2), Tag("~number")]

NEpochs = Annotated[_Auto | _IntUpTo50, Discriminator(_auto_tag)]
BatchSize = Annotated[_Auto | _IntUpTo256, Discriminator(_auto_tag)]
Multiplier = Annotated[_Auto | _UpTo100, Discriminator(_auto_tag)]
Beta = Annotated[_Auto | _UpTo2, Discriminator(_auto_tag)]


class HyperparametersRequest(StrictRequest):
    """Hyperparameters of a supervised job; the last six are of older APIs and do nothing."""

    n_epochs: NEpochs | None = None
    batch_size: BatchSize | None = None
    learning_rate_multiplier: Multiplier | None = None
    prompt_loss_weight: Any = None
    compute_classification_metrics: Any = None
    classification_n_classes: Any = None
    classification_positive_class: Any = None
    classification_betas: Any = None
    seed: Any = None


class DpoHyperparametersRequest(StrictRequest):
    """Hyperparameters of a job that learns preferences; the last one does nothing."""

    n_epochs: NEpochs | None = None
    batch_size: BatchSize | None = None
    learning_rate_multiplier: Multiplier | None = None
    beta: Beta | None = None
    seed: Any = None


class SupervisedRequest(StrictRequest):
    """``method.supervised``."""

    hyperparameters: HyperparametersRequest | None = None


class DpoRequest(StrictRequest):
    """``method.dpo``; Azure's examples have the last two beside the hyperparameters."""

    hyperparameters: DpoHyperparametersRequest | None = None
    beta: Beta | None = None
    l2_multiplier: Any = None
    """Does nothing."""


class MethodRequest(StrictRequest):
    """``method``. What is not built yet is known here, so that it can be refused by name."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedRequest | None = None
    dpo: DpoRequest | None = None
    reinforcement: Any = None


class HyperparametersObject(Wire):
    """Hyperparameters in an answer: ``auto`` until the files are checked, then numbers."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"beta"})

    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    beta: float | Literal["auto"] | None = None
    """Of ``dpo`` alone."""


class OfMethod(Wire):
    """``method.supervised`` or ``method.dpo`` in an answer."""

    hyperparameters: HyperparametersObject


class MethodObject(Wire):
    """``method`` in an answer."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"supervised", "dpo"})

    type: Literal["supervised", "dpo"]
    supervised: OfMethod | None = None
    dpo: OfMethod | None = None
