"""Low-rank adapters (Hu et al. 2021): our module, PEFT's names and files.

``y = x (W + s B A)^T + b`` with ``s = alpha / rank``. On float32 weights without dropout the
update is added to the weight once for each optimizer step, and one product goes forward and one
back: fewer passes over the activations than a side branch. (On rounded weights the sum would
lose the update; other precisions need the side product.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sintonia.errors import InvalidValue, RefusedModel
from sintonia.runs.spec import LoraSettings
from sintonia.sealed import write_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


class _MergedProduct(torch.autograd.Function):
    """``x M^T`` where ``M = W + s B A``; gradients to x, A and B only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, merged: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, merged, a, b)
        ctx.scale = scale
        return x @ merged.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        rows, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        grad_x = grad @ merged if ctx.needs_input_grad[0] else None
        grad_a = ctx.scale * ((grads @ b).t() @ rows)
        grad_b = ctx.scale * (grads.t() @ (rows @ a.t()))
        return grad_x, None, grad_a, grad_b, None


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update."""

    def __init__(self, base: nn.Linear | Conv1D, lora: LoraSettings) -> None:
        super().__init__()
        self.base = base
        weight = self._weight()
        self.scale = lora.alpha / lora.rank
        self.lora_a = nn.Parameter(weight.new_empty(lora.rank, weight.shape[1]))
        self.lora_b = nn.Parameter(weight.new_zeros(weight.shape[0], lora.rank))
        self._merged = torch.empty_like(weight)
        self._merged_of = (-1, -1)

    def reset(self, generator: torch.Generator) -> None:
        """Begin as the base alone: A as PEFT draws it, B zero."""
        bound = 1 / math.sqrt(self.lora_a.shape[1])  # Kaiming uniform with a = sqrt(5)
        nn.init.uniform_(self.lora_a, -bound, bound, generator=generator)
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its update."""
        y: Tensor = _MergedProduct.apply(x, self.merged(), self.lora_a, self.lora_b, self.scale)
        return y if self.base.bias is None else y + self.base.bias

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Return ``W + s B A``, computed anew only after A or B changed."""
        versions = (self.lora_a._version, self.lora_b._version)  # noqa: SLF001
        if versions != self._merged_of:
            torch.addmm(
                self._weight(), self.lora_b, self.lora_a, alpha=self.scale, out=self._merged
            )
            self._merged_of = versions
        return self._merged

    def _weight(self) -> Tensor:
        """Return the frozen weight as [out, in]; GPT-2's Conv1D keeps it transposed."""
        weight = self.base.weight.detach()
        return weight.t().contiguous() if isinstance(self.base, Conv1D) else weight


def attach(model: nn.Module, lora: LoraSettings, *, are_guessed: bool = False) -> None:
    """Freeze ``model`` and put an adapter on each linear layer that ``lora.targets`` names.

    Raises ``InvalidValue`` for a target that the model does not have; targets that
    ``are_guessed`` from the names of its weights need only one that it has.
    """
    model.requires_grad_(False)
    found = set()
    for name, module in list(model.named_modules()):
        target = name.rsplit(".", 1)[-1]
        if target not in lora.targets or not isinstance(module, nn.Linear | Conv1D):
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


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield each adapter's name and module, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def reset(model: nn.Module, seed: int) -> None:
    """Draw every adapter anew from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(model):
        layer.reset(generator)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's tensors under PEFT's names."""
    found = {}
    for name, layer in layers(model):
        found[f"{_PREFIX}{name}.lora_A.weight"] = layer.lora_a.detach()
        found[f"{_PREFIX}{name}.lora_B.weight"] = layer.lora_b.detach()
    return found


def save(model: nn.Module, folder: Path, lora: LoraSettings, base_name: str) -> None:
    """Write the adapter as PEFT does."""
    save_file({name: t.contiguous() for name, t in tensors(model).items()}, folder / WEIGHTS)
    fan_in_fan_out = any(isinstance(layer.base, Conv1D) for _, layer in layers(model))
    write_json(folder / CONFIG, peft_config(lora, base_name, fan_in_fan_out=fan_in_fan_out))


def peft_config(lora: LoraSettings, base_name: str, *, fan_in_fan_out: bool) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


@torch.no_grad()
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
        tensor.copy_(stored[name])
