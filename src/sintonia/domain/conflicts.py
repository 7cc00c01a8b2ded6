"""Choices that contradict each other or would do nothing; each is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from sintonia.domain.choices import (
    OPTIMIZER_DEFAULTS,
    Choices,
    EarlyStoppingChoices,
    LoraChoices,
    LoraInit,
    OptimizerChoices,
    OptimizerName,
    Quantization,
    ScheduleChoices,
    ScheduleName,
    Tuning,
)
from sintonia.domain.methods import AUTO, Method, MethodType
from sintonia.errors import InvalidValue

Conflict = tuple[str, str]
"""A setting's name and what is wrong with it."""

_OWN_VALUES = sorted({key for own in OPTIMIZER_DEFAULTS.values() for key in own})
_STARTS_FROM_WEIGHTS = (LoraInit.PISSA, LoraInit.OLORA)
_SUPERVISED_ONLY = ("z_loss", "learn")


def conflicts_of(method: Method, *, has_validation: bool) -> list[InvalidValue]:
    """Return an error for every choice of ``method`` that cannot be honoured."""
    return [
        InvalidValue(f"Setting {name}: {what}", param=f"sintonia.{name}")
        for name, what in _conflicts(method, has_validation=has_validation)
    ]


def _conflicts(method: Method, *, has_validation: bool) -> Iterator[Conflict]:
    choices = method.choices
    yield from _of_the_method(method)
    yield from _of_lora(choices)
    yield from _of_quantization(choices)
    if choices.compile and choices.gradient_checkpointing:
        yield "compile", "layers that are computed again are not compiled. Give one of the two."
    yield from _of_the_rate(method)
    yield from _of_the_optimizer(choices.optimizer or OptimizerChoices())
    yield from _of_the_schedule(choices.schedule or ScheduleChoices())
    if isinstance(choices.early_stopping, EarlyStoppingChoices) and not has_validation:
        yield "early_stopping", "it watches the validation loss. Give a validation file."


def _of_the_method(method: Method) -> Iterator[Conflict]:
    if method.type is MethodType.SUPERVISED:
        return
    for name in _SUPERVISED_ONLY:
        if getattr(method.choices, name) is not None:
            yield name, f"method {method.type.value} has none. Leave it out."
    smoothing = method.choices.label_smoothing
    if smoothing is not None and smoothing >= 0.5:
        yield "label_smoothing", "for preferences it must be below 0.5, or they mean nothing."


def _of_lora(choices: Choices) -> Iterator[Conflict]:
    lora = choices.lora or LoraChoices()
    if choices.tuning is Tuning.FULL:
        for name in _given(lora):
            yield f"lora.{name}", "full tuning has no adapter. Leave it out."
    if lora.init is LoraInit.ORTHOGONAL and (lora.rank or 0) % 2:
        yield "lora.rank", f"an orthogonal start needs an even rank, not {lora.rank}."


def _of_quantization(choices: Choices) -> Iterator[Conflict]:
    if choices.quantization is not Quantization.NF4:
        return
    if choices.tuning is Tuning.FULL:
        yield "quantization", "full tuning trains the weights themselves. Leave it out."
    init = choices.lora.init if choices.lora else None
    if init in _STARTS_FROM_WEIGHTS:
        what = "begins with a part of the weights, which quantization rounds. Choose another."
        yield "lora.init", f"{init.value} {what}"


def _of_the_rate(method: Method) -> Iterator[Conflict]:
    optimizer = method.choices.optimizer or OptimizerChoices()
    has_multiplier = method.hyperparameters.learning_rate_multiplier != AUTO
    if has_multiplier and optimizer.learning_rate is not None:
        yield "optimizer.learning_rate", "learning_rate_multiplier is given too. Give one of them."
    if has_multiplier and optimizer.name is OptimizerName.SGD:
        yield "optimizer.name", "sgd has no usual rate to multiply. Give optimizer.learning_rate."
    elif optimizer.name is OptimizerName.SGD and optimizer.learning_rate is None:
        yield (
            "optimizer.learning_rate",
            "sgd needs one: the base model's own rate is AdamW's and does not carry over. Give it.",
        )


def _of_the_optimizer(optimizer: OptimizerChoices) -> Iterator[Conflict]:
    name = optimizer.name or OptimizerName.ADAMW
    for key in _OWN_VALUES:
        if key not in OPTIMIZER_DEFAULTS[name] and getattr(optimizer, key) is not None:
            yield f"optimizer.{key}", f"{name.value} has none. Leave it out."


def _of_the_schedule(schedule: ScheduleChoices) -> Iterator[Conflict]:
    if schedule.warmup_steps is not None and schedule.warmup_ratio is not None:
        yield "schedule.warmup_ratio", "warmup_steps is given too. Give one of them."
    if schedule.decay_ratio is not None and schedule.name is not ScheduleName.WSD:
        yield "schedule.decay_ratio", "only the schedule wsd has one. Leave it out."
    if schedule.floor is not None and schedule.name is ScheduleName.CONSTANT:
        yield "schedule.floor", "the schedule constant does not decay. Leave it out."


def _given(choices: LoraChoices) -> list[str]:
    return [f.name for f in dataclasses.fields(choices) if getattr(choices, f.name) is not None]
