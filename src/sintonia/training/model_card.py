"""The card of a tuned model: enough to make it again, for people and for programs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sintonia.runs.spec import TrainSpec
from sintonia.sealed import read_json, write_json

CARD = "model_card.json"
README = "README.md"
_RENDERER_FILES = ("tokenizer.json", "chat_template.jinja", "sintonia.json")
_PACKAGES = ("sintonia", "torch", "transformers", "tokenizers", "safetensors")


def write(folder: Path, spec: TrainSpec, step: int, metrics: Mapping[str, Any]) -> None:
    """Write the card and the tokenizer and template that the model was trained with."""
    base = Path(spec.base.folder)
    for name in _RENDERER_FILES:
        shutil.copyfile(base / name, folder / name)
    facts = read_json(base / "sintonia.json")
    card = {
        "run": spec.run_id,
        "step": step,
        "base": {
            "name": spec.base.name,
            "sha256": spec.base.sha256,
            "license": facts["license"],
            "source": facts["source"],
        },
        "parent": dataclasses.asdict(spec.parent) if spec.parent else None,
        "template_sha256": spec.template_sha256,
        "stop_tokens": facts["stop_tokens"],
        "training_file": _data(spec.training),
        "validation_file": _data(spec.validation) if spec.validation else None,
        "kind": "whole model" if spec.lora is None else "LoRA adapter",
        "settings": _settings(spec),
        "origins": dict(spec.origins),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "metrics": dict(metrics),
    }
    write_json(folder / CARD, card)
    (folder / README).write_text(_readme(card), encoding="utf-8")


def _data(data: Any) -> dict[str, Any]:
    return {"id": data.file_id, "sha256": data.sha256, "num_examples": data.num_examples}


def _settings(spec: TrainSpec) -> dict[str, Any]:
    """Return the values that decide the result; places on this machine are left out."""
    left_out = {"base", "parent", "training", "validation", "origins", "cache_folder", "run_id"}
    return {k: v for k, v in dataclasses.asdict(spec).items() if k not in left_out}


def _readme(card: Mapping[str, Any]) -> str:
    settings = card["settings"]
    rows = [
        ("Base model", f"{card['base']['name']} (licence {card['base']['license']})"),
        ("Base sha256", card["base"]["sha256"]),
        ("Template sha256", card["template_sha256"]),
        ("Training rows", card["training_file"]["num_examples"]),
        ("Training file sha256", card["training_file"]["sha256"]),
        ("Epochs, batch size", f"{settings['n_epochs']}, {settings['batch_size']}"),
        ("Learning rate", settings["optimizer"]["learning_rate"]),
        *_trained(settings["lora"]),
        ("Seed, step", f"{settings['seed']}, {card['step']}"),
        ("Stop tokens", ", ".join(f"`{token}`" for token in card["stop_tokens"])),
        *((key, f"{value:.4g}") for key, value in card["metrics"].items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# {card['run']}\n\nA {card['kind']} made by Sintonia {card['versions']['sintonia']}. "
        f"`{CARD}` has every setting, its origin and the versions.\n\n| | |\n| --- | --- |\n"
        f"{table}\n"
    )


def _trained(lora: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return the rows that say what was trained."""
    if lora is None:
        return [("Trained", "every weight; no base is needed to use it")]
    kind = "rsLoRA" if lora["use_rslora"] else "LoRA"
    rows = [
        (f"{kind} rank, alpha", f"{lora['rank']}, {lora['alpha']}"),
        ("Began with", str(lora["init"])),
    ]
    return [*rows, ("LoRA dropout", f"{lora['dropout']:g}")] if lora["dropout"] else rows
