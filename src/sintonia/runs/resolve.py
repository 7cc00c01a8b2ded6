"""Turns what was chosen into settings, value by value.

Invariant: each value of a plan is settled once, and its origin is written down as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from sintonia.domain.choices import (
    OPTIMIZER_DEFAULTS,
    Choices,
    EarlyStoppingChoices,
    Learn,
    LoraChoices,
    LoraInit,
    OptimizerChoices,
    OptimizerName,
    Quantization,
    ScheduleChoices,
    ScheduleName,
    Tuning,
)
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidValue
from sintonia.runs.spec import (
    DpoSettings,
    EarlyStopping,
    LoraSettings,
    OptimizerSettings,
    Origin,
    ScheduleSettings,
    SftSettings,
)

T = TypeVar("T")

USUAL_RANK = 16
ALPHA_PER_RANK = 2.0
WARMUP_PART = 0.06
MAX_WARMUP_STEPS = 100
DECAY_PART = 0.2
"""Of a ``wsd`` schedule (Hagele et al. 2024)."""
MAX_GRADIENT_NORM = 1.0

RATE_PARTS = {
    OptimizerName.ADAMW: 1.0,
    OptimizerName.ADAFACTOR: 1.0,
    OptimizerName.LION: 0.1,
    OptimizerName.MUON: 1.0,
}
"""Of the base model's own rate, which is AdamW's. Lion's steps are signs and want a tenth (Chen
et al. 2023); Muon's are scaled to the size of AdamW's; plain SGD's follow the gradient's size,
which no base model's rate tells."""
METHOD_RATE_PARTS = {MethodType.SUPERVISED: 1.0, MethodType.DPO: 0.1}
"""Preferences push one answer up and another down: at the whole rate the policy soon leaves the
answers that its reference has an opinion on (``docs/hyperparameters.md`` has the measurement)."""
FULL_RATE_PART = 0.1
"""Full tuning wants about a tenth of LoRA's rate (Schulman et al. 2025)."""


class Ledger:
    """Settles values and remembers where each came from, and what could not be settled."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self.problems: list[InvalidValue] = []
        """Choices that cannot be honoured; a plan that has any is none."""

    def refuse(self, message: str, param: str) -> None:
        """Note a choice that cannot be honoured, and go on to the others."""
        self.problems.append(InvalidValue(message, param=param))

    def settle(self, name: str, given: T | None, otherwise: T, origin: Origin) -> T:
        """Return ``given``, or where that is ``None`` what there is ``otherwise``."""
        self.origins[name] = origin if given is None else Origin.GIVEN
        return otherwise if given is None else given

    def default(self, name: str, given: T | None, otherwise: T) -> T:
        """Settle a value that has a default."""
        return self.settle(name, given, otherwise, Origin.DEFAULT)


@dataclass(frozen=True)
class RateFacts:
    """What the peak learning rate is made from."""

    base: float
    """The base model's own, for AdamW on an adapter."""
    multiplier: float | None
    """As the caller gave it."""
    tuning: Tuning
    given: OptimizerChoices
    method: MethodType = MethodType.SUPERVISED

    @property
    def unit(self) -> float:
        """The rate at the multiplier 1."""
        part = RATE_PARTS.get(self.given.name or OptimizerName.ADAMW, 1.0)
        part *= METHOD_RATE_PARTS[self.method]
        return self.base * part * (FULL_RATE_PART if self.tuning is Tuning.FULL else 1.0)


def resolve_tuning(ledger: Ledger, choices: Choices, parent: Tuning | None) -> Tuning:
    """Return which weights learn: unless told otherwise those that the parent's tuning changed.

    The shape of an adapter is refused where there will be none.
    """
    if parent is None:
        return ledger.default("tuning", choices.tuning, Tuning.LORA)
    tuning = ledger.settle("tuning", choices.tuning, parent, Origin.INHERITED)
    if tuning is Tuning.FULL and choices.lora not in (None, LoraChoices()):
        ledger.refuse(
            "Setting lora: the model that training goes on from was tuned in full, and so will "
            "be this one, without an adapter. Leave it out, or set tuning to 'lora'.",
            "sintonia.lora",
        )
    return tuning


def resolve_quantization(ledger: Ledger, choices: Choices, tuning: Tuning) -> Quantization:
    """Return how frozen weights are kept; refused where the parent's tuning leaves none frozen.

    Full tuning that was asked for is refused with the other conflicts.
    """
    found = ledger.default("quantization", choices.quantization, Quantization.NONE)
    is_inherited = tuning is Tuning.FULL and choices.tuning is not Tuning.FULL
    if found is not Quantization.NONE and is_inherited:
        ledger.refuse(
            "Setting quantization: the model that training goes on from was tuned in full, and so "
            "will be this one, which trains the weights themselves. Leave it out, or set tuning "
            "to 'lora'.",
            "sintonia.quantization",
        )
    return found


def resolve_lora(
    ledger: Ledger, given: LoraChoices, targets: tuple[str, ...], parent: LoraSettings | None
) -> LoraSettings:
    """Return the adapter's shape: the parent's, or what was chosen over the defaults.

    Each choice that contradicts the parent is refused.
    """
    if parent is not None:
        return _inherit_lora(ledger, given, parent)
    rank = ledger.default("lora.rank", given.rank, USUAL_RANK)
    origin = Origin.DEFAULT if given.rank is None else Origin.DERIVED
    return LoraSettings(
        rank=rank,
        alpha=ledger.settle("lora.alpha", given.alpha, ALPHA_PER_RANK * rank, origin),
        targets=ledger.settle(
            "lora.targets", given.targets and tuple(sorted(given.targets)), targets, Origin.DERIVED
        ),
        dropout=ledger.default("lora.dropout", given.dropout, 0.0),
        use_rslora=ledger.default("lora.rslora", given.rslora, False),
        init=ledger.default("lora.init", given.init, LoraInit.KAIMING),
    )


def _inherit_lora(ledger: Ledger, given: LoraChoices, parent: LoraSettings) -> LoraSettings:
    kept = {
        "rank": parent.rank,
        "alpha": parent.alpha,
        "targets": tuple(sorted(parent.targets)),
        "rslora": parent.use_rslora,
    }
    wanted = {name: getattr(given, name) for name in kept}
    wanted["targets"] = given.targets and tuple(sorted(given.targets))
    for name, value in kept.items():
        if wanted[name] not in (None, value):
            ledger.refuse(
                f"Setting lora.{name} {wanted[name]!r}: the model that training goes on from has "
                f"{value!r}, which it keeps. Leave it out, or start from the base model.",
                f"sintonia.lora.{name}",
            )
    if given.init is not None:
        ledger.refuse(
            f"Setting lora.init {given.init.value!r}: training goes on from an adapter that has "
            "begun. Leave it out.",
            "sintonia.lora.init",
        )
    for name, value in kept.items():
        ledger.settle(f"lora.{name}", wanted[name], value, Origin.INHERITED)
    dropout = ledger.default("lora.dropout", given.dropout, 0.0)
    ledger.origins["lora.init"] = Origin.INHERITED
    return dataclasses.replace(parent, dropout=dropout)


def resolve_multiplier(ledger: Ledger, rate: RateFacts) -> float:
    """Return the multiplier; where the rate itself was given, the one that it amounts to."""
    name = "learning_rate_multiplier"
    if rate.given.learning_rate is None:
        return ledger.default(name, rate.multiplier, 1.0)
    return ledger.settle(name, None, rate.given.learning_rate / rate.unit, Origin.DERIVED)


def resolve_optimizer(ledger: Ledger, rate: RateFacts) -> OptimizerSettings:
    """Return the optimizer with its peak rate."""
    given = rate.given
    name = ledger.default("optimizer.name", given.name, OptimizerName.ADAMW)
    usual = rate.unit * (1.0 if rate.multiplier is None else rate.multiplier)
    origin = Origin.INHERITED if usual == rate.base else Origin.DERIVED
    own = {
        key: ledger.default(f"optimizer.{key}", getattr(given, key), value)
        for key, value in OPTIMIZER_DEFAULTS[name].items()
    }
    return OptimizerSettings(
        learning_rate=ledger.settle("optimizer.learning_rate", given.learning_rate, usual, origin),
        name=name,
        weight_decay=ledger.default("optimizer.weight_decay", given.weight_decay, 0.0),
        max_gradient_norm=ledger.default(
            "optimizer.max_gradient_norm", given.max_gradient_norm, MAX_GRADIENT_NORM
        ),
        **own,
    )


def resolve_schedule(ledger: Ledger, given: ScheduleChoices, total_steps: int) -> ScheduleSettings:
    """Return the schedule in steps of this run."""
    name = ledger.default("schedule.name", given.name, ScheduleName.LINEAR)
    usual = min(MAX_WARMUP_STEPS, max(1, round(total_steps * WARMUP_PART)))
    warmup = given.warmup_steps
    if given.warmup_ratio is not None:
        warmup = round(given.warmup_ratio * total_steps)
    warmup = ledger.settle("schedule.warmup_steps", warmup, usual, Origin.DERIVED)
    if warmup > total_steps:
        ledger.refuse(
            f"Setting schedule.warmup_steps {warmup}: this run has {total_steps} steps. Give "
            "fewer, or a `warmup_ratio`.",
            "sintonia.schedule.warmup_steps",
        )
    decay_steps = 0
    if name is ScheduleName.WSD:
        part = DECAY_PART if given.decay_ratio is None else given.decay_ratio
        decay_steps = max(1, round(part * total_steps))
        ledger.origins["schedule.decay_steps"] = Origin.DERIVED
    return ScheduleSettings(
        name=name,
        warmup_steps=warmup,
        decay_steps=min(decay_steps, total_steps - warmup),
        floor=ledger.default("schedule.floor", given.floor, 0.0),
    )


def resolve_sft(ledger: Ledger, choices: Choices) -> SftSettings:
    """Return what supervised tuning learns."""
    learn = ledger.default("learn", choices.learn, Learn.ALL)
    return SftSettings(
        learns_last_only=learn is Learn.LAST,
        label_smoothing=ledger.default("label_smoothing", choices.label_smoothing, 0.0),
        z_loss=ledger.default("z_loss", choices.z_loss, 0.0),
    )


def resolve_dpo(ledger: Ledger, beta: float | None, choices: Choices) -> DpoSettings:
    """Return how preferences are learned."""
    usual = DpoSettings()
    return DpoSettings(
        beta=ledger.default("beta", beta, usual.beta),
        label_smoothing=ledger.default(
            "label_smoothing", choices.label_smoothing, usual.label_smoothing
        ),
    )


def resolve_early_stopping(
    ledger: Ledger, choices: Choices, *, is_usual: bool
) -> EarlyStopping | None:
    """Return when training ends early; ``is_usual`` says what ``auto`` means here."""
    asked = choices.early_stopping
    if asked is False:
        ledger.origins["early_stopping"] = Origin.GIVEN
        return None
    if not isinstance(asked, EarlyStoppingChoices):
        ledger.origins["early_stopping"] = Origin.DERIVED
        if not is_usual:
            return None
        asked = EarlyStoppingChoices()
    else:
        ledger.origins["early_stopping"] = Origin.GIVEN
    usual = EarlyStopping()
    return EarlyStopping(
        patience=ledger.default("early_stopping.patience", asked.patience, usual.patience),
        min_delta=ledger.default("early_stopping.min_delta", asked.min_delta, usual.min_delta),
    )
