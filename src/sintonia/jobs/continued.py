"""Reads the adapter that a continued tuning starts from.

Invariant: training begins at the very weights that the parent is served with, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sintonia.bases.plain_lora import unlike_lora
from sintonia.errors import ModelNotAvailable
from sintonia.runs.spec import LoraSettings
from sintonia.sealed import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def lora_of(folder: Path, model: str) -> LoraSettings:
    """Return the settings under which training goes on from the adapter in ``folder``.

    Raises ``ModelNotAvailable`` naming ``model`` when it is not plain LoRA.
    """
    config = read_json(folder / CONFIG)
    why = unlike_lora(config)
    if why is not None:
        raise _refusal(model, why)
    return LoraSettings(
        rank=config["r"],
        alpha=config["lora_alpha"],
        use_rslora=bool(config.get("use_rslora")),
        targets=_targets(folder / WEIGHTS, config, model),
    )


def _targets(weights: Path, config: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Return the layers' names as the tensors tell them: the config may hold a pattern."""
    targets = set()
    try:
        with safe_open(weights, framework="numpy") as tensors:
            names = list(tensors.keys())
            ranks = {
                name: tensors.get_slice(name).get_shape()[0] for name in names if "lora_A" in name
            }
    except SafetensorError as problem:
        raise _refusal(model, f"its adapter cannot be read ({problem})") from None
    for name in names:
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        if part not in {"lora_A", "lora_B"} or ranks.get(name, config["r"]) != config["r"]:
            raise _refusal(model, f"its adapter holds {name}")
        targets.add(layer.rpartition(".")[2])
    if not targets:
        raise _refusal(model, "its adapter holds no tensors")
    return tuple(sorted(targets))


def _refusal(model: str, why: str) -> ModelNotAvailable:
    return ModelNotAvailable(
        f"Model {model} cannot be tuned further: {why}; only plain LoRA can be continued. "
        "Start from its base model.",
        param="model",
    )
