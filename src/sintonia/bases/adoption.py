"""Taking in an adapter that was trained elsewhere: checked against its base before it is used."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sintonia.bases.folder import FACTS, TEMPLATE, BaseModel
from sintonia.bases.inspection import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOKENIZER,
    check_adapter,
    read_object,
)
from sintonia.bases.plain_lora import unlike_lora
from sintonia.errors import RefusedModel
from sintonia.sealed import write_json
from sintonia.weights import Shape, model_shapes, tensor_shapes

CARD = "model_card.json"


def adopt(folder: Path, base: BaseModel, template_sha256: str, work: Path) -> None:
    """Fill the new folder ``work`` with the adapter and with the base's tokenizer and template.

    Raises ``RefusedModel`` for an adapter that is not plain LoRA or is for another base.
    """
    check_adapter(folder)
    config = read_object(folder / ADAPTER_CONFIG)
    reason = unlike_lora(config)
    if reason:
        raise RefusedModel(f"Adapter {folder.name}: {reason}. Use a plain LoRA adapter.")
    weights = model_shapes(Path(base.ref.folder))
    if config.get("fan_in_fan_out"):
        weights = {name: shape[::-1] for name, shape in weights.items()}
    _check_shapes(tensor_shapes(folder / ADAPTER_WEIGHTS), config["r"], weights)
    work.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
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


def _check_shapes(found: Mapping[str, Shape], rank: int, weights: Mapping[str, Shape]) -> None:
    """Compare each pair A [r, in], B [out, r] with the weight [out, in] that it belongs to."""
    pairs: dict[str, dict[str, Shape]] = {}
    for name, shape in found.items():
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        if part not in {"lora_A", "lora_B"}:
            raise RefusedModel(f"The adapter holds {name}, which is no part of a LoRA adapter.")
        pairs.setdefault(layer.removeprefix("base_model.model."), {})[part] = shape
    if not pairs:
        raise RefusedModel("The adapter holds no tensors.")
    for layer, pair in pairs.items():
        _check_pair(layer, pair, rank, _weight_of(layer, weights))


def _check_pair(layer: str, pair: Mapping[str, Shape], rank: int, weight: Shape) -> None:
    missing = {"lora_A", "lora_B"} - pair.keys()
    if missing:
        raise RefusedModel(f"The adapter has no {missing.pop()} for {layer}. Export it again.")
    if len(weight) != 2:
        raise RefusedModel(
            f"The adapter is for another base: there is no linear layer {layer} here. "
            "Name the right one with --base."
        )
    wanted = {"lora_A": (rank, weight[1]), "lora_B": (weight[0], rank)}
    for part, shape in pair.items():
        if shape != wanted[part]:
            raise RefusedModel(
                f"The adapter is for another base or another rank: {part} of {layer} has the "
                f"shape {list(shape)}, with this base and r={rank} it is {list(wanted[part])}. "
                "Name the right base with --base."
            )


def _weight_of(layer: str, weights: Mapping[str, Shape]) -> Shape:
    """Return the shape of a layer's weight, ``()`` when there is none.

    Some files leave out the name of the outermost module (GPT-2's begin with ``h.0``).
    """
    inner = layer.partition(".")[2]
    return weights.get(f"{layer}.weight") or weights.get(f"{inner}.weight") or ()
