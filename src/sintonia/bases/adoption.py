"""Taking in an adapter that was trained elsewhere: checked against its base before it is used."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sintonia.bases.folder import ADAPTER_CONFIG, FACTS, TEMPLATE, TOKENIZER, BaseModel, check_safe
from sintonia.errors import RefusedModel
from sintonia.sealed import read_json, write_json

WEIGHTS = "adapter_model.safetensors"
CARD = "model_card.json"

Shape = tuple[int, ...]


def adopt(folder: Path, base: BaseModel, template_sha256: str, work: Path) -> None:
    """Fill the new folder ``work`` with the adapter and with the base's tokenizer and template.

    Raises ``RefusedModel`` for an adapter that is not plain LoRA or is for another base.
    """
    check_safe(folder)
    if not (folder / ADAPTER_CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise RefusedModel(
            f"Folder {folder}: an adapter has {ADAPTER_CONFIG} and {WEIGHTS}. "
            "Leave --base out for a whole model."
        )
    config = read_json(folder / ADAPTER_CONFIG)
    _check_kind(config)
    _check_shapes(folder / WEIGHTS, config, Path(base.ref.folder))
    work.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, WEIGHTS):
        shutil.copyfile(folder / name, work / name)
    for name in (TOKENIZER, TEMPLATE, FACTS):
        shutil.copyfile(Path(base.ref.folder) / name, work / name)
    card = {
        "source": f"adapter folder {folder.name}",
        "base": {"name": base.ref.name, "sha256": base.ref.sha256, "license": base.facts.license},
        "template_sha256": template_sha256,
        "stop_tokens": list(base.facts.stop_tokens),
    }
    write_json(work / CARD, card)


def _check_kind(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise RefusedModel(f"Adapter type {config.get('peft_type')}: only LoRA is served.")
    for key in ("use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern"):
        if config.get(key):
            raise RefusedModel(f"The adapter uses {key}, which is not served.")
    if config.get("bias", "none") != "none":
        raise RefusedModel("The adapter trained biases, which are not served.")


def _check_shapes(weights: Path, config: Mapping[str, Any], base_folder: Path) -> None:
    """Compare each pair A [r, in], B [out, r] with the weight it belongs to."""
    wanted: dict[str, Shape] = {}
    for path in sorted(base_folder.glob("*.safetensors")):
        wanted |= _shapes(path)
    found = _shapes(weights)
    transposed = bool(config.get("fan_in_fan_out"))
    for name, shape in found.items():
        layer, is_a = _layer_of(name)
        weight = wanted.get(f"{layer}.weight", ())
        out_in = weight[::-1] if transposed else weight
        fits = len(out_in) == 2 and (shape[1] == out_in[1] if is_a else shape[0] == out_in[0])
        if not fits:
            raise RefusedModel(
                f"The adapter is for another base: {layer} has the shape {list(weight)} here, "
                f"the adapter's part has {list(shape)}. Name the right one with --base."
            )
    if not found:
        raise RefusedModel("The adapter holds no tensors.")


def _layer_of(name: str) -> tuple[str, bool]:
    """Return the base's layer of an adapter's tensor and whether it is the A part."""
    layer, _, part = name.removesuffix(".weight").rpartition(".")
    if part not in {"lora_A", "lora_B"}:
        raise RefusedModel(f"The adapter holds {name}, which is no part of a LoRA adapter.")
    return layer.removeprefix("base_model.model."), part == "lora_A"


def _shapes(path: Path) -> dict[str, Shape]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return {n: tuple(tensors.get_slice(n).get_shape()) for n in tensors.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise RefusedModel(f"{path.name} is not a whole safetensors file: {problem}") from None
