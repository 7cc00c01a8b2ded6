"""Low-rank adapters on a model: attached, drawn, and kept under PEFT's names and in its files.

What one layer computes is in :mod:`sintonia.models.lora`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sintonia.errors import InvalidValue, RefusedModel
from sintonia.models import lora_starts
from sintonia.models.lora import LINEAR, LoraLinear, scale_of
from sintonia.runs.spec import LoraInit, LoraSettings
from sintonia.sealed import read_json, write_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def attach(model: nn.Module, lora: LoraSettings, *, are_guessed: bool = False) -> None:
    """Freeze ``model`` and put an adapter on each linear layer that ``lora.targets`` names.

    Raises ``InvalidValue`` for settings that make no adapter and for a target that the model does
    not have; targets that ``are_guessed`` from the names of its weights need only one that it has.
    """
    check(lora)
    model.requires_grad_(False)
    found = set()
    for name, module in list(model.named_modules()):
        target = name.rsplit(".", 1)[-1]
        if target not in lora.targets or not isinstance(module, LINEAR):
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoraLinear(module, lora))
        found.add(target)
    missing = sorted(set(lora.targets) - found)
    if not found or (missing and not are_guessed):
        raise InvalidValue(
            f"LoRA targets {', '.join(missing) or '(none)'}: the model has no such linear layer.",
            param="lora.targets",
        )


def check(lora: LoraSettings) -> None:
    """Raise ``InvalidValue`` naming everything about ``lora`` that makes no adapter."""
    problems = []
    if type(lora.rank) is not int or lora.rank < 1:
        problems.append(f"LoRA rank {lora.rank!r}: must be a whole number from 1.")
    elif lora.init is LoraInit.ORTHOGONAL and lora.rank % 2:
        problems.append(f"LoRA rank {lora.rank}: must be even for an orthogonal start.")
    if not 0 < lora.alpha < math.inf:
        problems.append(f"LoRA alpha {lora.alpha!r}: must be a positive number.")
    if not 0 <= lora.dropout < 1:
        problems.append(f"LoRA dropout {lora.dropout!r}: must be from 0 to below 1.")
    if problems:
        raise InvalidValue(" ".join(problems), param="lora")


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield each adapter's name and module, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def reset(model: nn.Module, seed: int) -> None:
    """Draw every adapter anew from ``seed``.

    Raises ``InvalidValue`` for a rank that a start from the weights does not have in all layers.
    """
    found = [layer for _, layer in layers(model)]
    for init, rank in {(layer.init, len(layer.lora_a)) for layer in found}:
        shapes = [(len(layer.lora_b), layer.lora_a.shape[1]) for layer in found]
        lora_starts.require_rank(init, rank, shapes)
    generator = torch.Generator().manual_seed(seed)
    for layer in found:
        layer.reset(generator)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's tensors under PEFT's names."""
    found = {}
    for name, layer in layers(model):
        found[_name_of(name, "A")], found[_name_of(name, "B")] = layer.factors()
    return found


def _name_of(layer: str, factor: str) -> str:
    return f"{_PREFIX}{layer}.lora_{factor}.weight"


def save(model: nn.Module, folder: Path, lora: LoraSettings, base_name: str) -> None:
    """Write the adapter as PEFT does."""
    save_file({name: t.contiguous() for name, t in tensors(model).items()}, folder / WEIGHTS)
    found = [layer for _, layer in layers(model)]
    fan_in_fan_out = any(layer.is_transposed for layer in found)
    stored = _doubled(lora) if any(layer.start_a is not None for layer in found) else lora
    write_json(folder / CONFIG, peft_config(stored, base_name, fan_in_fan_out=fan_in_fan_out))


def _doubled(lora: LoraSettings) -> LoraSettings:
    """Return the settings of twice the rank that scale alike."""
    alpha = lora.alpha * (math.sqrt(2) if lora.use_rslora else 2)
    return dataclasses.replace(lora, rank=2 * lora.rank, alpha=alpha)


def peft_config(lora: LoraSettings, base_name: str, *, fan_in_fan_out: bool) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``; any start was made a plain one."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "init_lora_weights": True,
        "use_rslora": lora.use_rslora,
        "use_dora": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


def load(model: nn.Module, folder: Path) -> None:
    """Fill the attached adapters from PEFT's file.

    Raises ``RefusedModel`` when the file is for other layers or shapes.
    """
    stored = load_file(folder / WEIGHTS)
    wanted = tensors(model)
    if stored.keys() != wanted.keys():
        differing = sorted(stored.keys() ^ wanted.keys())
        raise RefusedModel(f"The adapter is for another base or other layers: {differing[0]}.")
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape:
            raise RefusedModel(
                f"The adapter is for another base: {name} has the shape "
                f"{list(stored[name].shape)}, the model needs {list(tensor.shape)}."
            )
    for name, layer in layers(model):
        layer.set_factors(stored[_name_of(name, "A")], stored[_name_of(name, "B")])


@torch.no_grad()
def add_to_weights(model: nn.Module, folder: Path) -> None:
    """Add the update of PEFT's file to the weights of ``model``, which has no adapter.

    Raises ``RefusedModel`` when the file is for other layers or shapes.
    """
    config, stored = read_json(folder / CONFIG), load_file(folder / WEIGHTS)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = scale_of(LoraSettings(rank, alpha, use_rslora=bool(config.get("use_rslora"))))
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    for name in sorted(key for key in stored if key.endswith(".lora_A.weight")):
        layer = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        update = scale * stored[_name_of(layer, "B")] @ stored[name]
        module = linear.get(layer)
        if module is None:
            raise RefusedModel(f"The adapter is for another base: there is no layer {layer}.")
        update = update.t() if isinstance(module, Conv1D) else update
        if update.shape != module.weight.shape:
            raise RefusedModel(f"The adapter is for another base: {layer} has another shape.")
        module.weight += update.to(module.weight)
