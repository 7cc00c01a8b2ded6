"""Reading adapters in PEFT's layout.

Invariant: an adapter that asks for anything that is not a plain LoRA over linear layers is
refused with the reason, never served in part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, float32

from sintonia.bases.plain_lora import scale_of, unlike_lora
from sintonia.errors import RefusedModel
from sintonia.generation.engines.native.linear import Adapter, LowRank
from sintonia.generation.engines.native.loading import check_seal
from sintonia.sealed import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def load_adapter(folder: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Read the adapter in ``folder`` for a base whose linear layers have ``shapes`` [out, in].

    Raises ``RefusedModel`` when it is not whole, not plain or not for this base, and
    ``DamagedCheckpoint`` when its files are not what its manifest promises.
    """
    check_seal(folder, sha256)
    try:
        config = dict(read_json(folder / CONFIG))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as problem:
        raise _refused(folder, f"it cannot be read ({type(problem).__name__})") from None
    reason = unlike_lora(config)
    if reason:
        raise _refused(folder, reason)
    scale = scale_of(config)
    paths = [_module_path(folder, key) for key in tensors]
    modules = {path: _low_rank(folder, path, tensors, scale) for path in dict.fromkeys(paths)}
    for path, module in modules.items():
        _check_shape(folder, path, module, shapes)
    return Adapter(modules)


def _module_path(folder: Path, key: str) -> str:
    """Return the path of the base's module that the tensor ``key`` belongs to."""
    for ending in (_DOWN, _UP):
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key.removeprefix(_PREFIX).removesuffix(ending)
    raise _refused(folder, f"its tensor {key!r} is none of a LoRA over linear layers")


def _low_rank(folder: Path, path: str, tensors: Mapping[str, Tensor], scale: float) -> LowRank:
    down, up = tensors.get(f"{_PREFIX}{path}{_DOWN}"), tensors.get(f"{_PREFIX}{path}{_UP}")
    if down is None or up is None:
        raise _refused(folder, f"one of the two matrices of {path} is missing")
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise _refused(folder, f"the matrices of {path} do not fit each other")
    return LowRank(down=down.to(float32).t(), up=(up.to(float32) * scale).t())


def _check_shape(
    folder: Path, path: str, module: LowRank, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    own = (module.up.shape[1], module.down.shape[0])
    if shapes.get(path) != own:
        raise _refused(folder, f"its base has no linear layer {path} of shape {own}")


def _refused(folder: Path, reason: str) -> RefusedModel:
    return RefusedModel(
        f"Adapter {folder.name}: {reason}. Use a plain LoRA adapter in PEFT's layout."
    )
