"""The values of a plan as a job shows them: named and shaped as they can be chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

from sintonia.domain.choices import Learn, Tuning
from sintonia.domain.methods import AUTO
from sintonia.runs.spec import LoraSettings, Origin, TrainSpec

_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
_SUPERVISED, _DPO = "sft", "dpo"


def resolved_of(spec: TrainSpec) -> dict[str, Any]:
    """Return OpenAI's hyperparameters, and under ``settings`` everything else that is chosen."""
    resolved = {name: getattr(spec, name) for name in _HYPERPARAMETERS}
    if spec.objective == _DPO:
        resolved["beta"] = spec.dpo.beta
    return {**resolved, "settings": settings_of(spec)}


def settings_of(spec: TrainSpec) -> dict[str, Any]:
    """Return the values of the ``sintonia`` object, none left out."""
    stopping = spec.early_stopping
    return {
        "tuning": Tuning.LORA if spec.lora else Tuning.FULL,
        **({"lora": _lora(spec.lora)} if spec.lora else {}),
        "optimizer": {k: v for k, v in dataclasses.asdict(spec.optimizer).items() if v is not None},
        "schedule": _schedule(spec),
        **_OBJECTIVE.get(spec.objective, lambda _spec: {})(spec),
        "micro_batch_tokens": spec.micro_batch_tokens,
        "gradient_checkpointing": spec.gradient_checkpointing,
        # Not given, it is chosen by the machine that trains.
        "precision": spec.precision if spec.origins["precision"] is Origin.GIVEN else AUTO,
        "quantization": spec.quantization,
        "compile": spec.compile,
        "early_stopping": dataclasses.asdict(stopping) if stopping else False,
    }


def _lora(lora: LoraSettings) -> dict[str, Any]:
    values = dataclasses.asdict(lora) | {"targets": list(lora.targets)}
    return {"rslora" if name == "use_rslora" else name: v for name, v in values.items()}


def _schedule(spec: TrainSpec) -> dict[str, Any]:
    values = dataclasses.asdict(spec.schedule)
    decay_steps = values.pop("decay_steps")
    return {**values, "decay_steps": decay_steps} if decay_steps else values


def _supervised(spec: TrainSpec) -> dict[str, Any]:
    return {
        "label_smoothing": spec.sft.label_smoothing,
        "z_loss": spec.sft.z_loss,
        "learn": Learn.LAST if spec.sft.learns_last_only else Learn.ALL,
    }


def _preferences(spec: TrainSpec) -> dict[str, Any]:
    return {"label_smoothing": spec.dpo.label_smoothing}


_OBJECTIVE = {_SUPERVISED: _supervised, _DPO: _preferences}
