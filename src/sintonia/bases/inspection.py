"""What a model folder must hold and what it may not, looked at before any of it is copied.

Invariant: nothing here runs code of the folder or loads a weight, and all reasons against a
folder are given at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from sintonia.errors import RefusedModel
from sintonia.weights import tensor_shapes, weight_files

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

Rule = Callable[[Path, list[Path]], list[str]]
"""From a folder and all its files to the reasons against it; may raise ``RefusedModel``."""


def check_base(folder: Path) -> None:
    """Raise ``RefusedModel`` for a folder that is unsafe or no whole model that can be loaded."""
    if (folder / ADAPTER_CONFIG).exists():
        raise RefusedModel(f"Folder {folder} is an adapter. Name its base with --base.")
    _check(folder, (*_SAFE, _has_parts, _has_plain_weights, _has_whole_weights))
    _check(folder, (_is_of_a_known_family,))


def check_adapter(folder: Path) -> None:
    """Raise ``RefusedModel`` for a folder that is unsafe or no adapter."""
    _check(folder, (*_SAFE, _has_adapter_parts))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``RefusedModel`` for anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise RefusedModel(f"{path.name} is not JSON. Fetch the model again.") from None
    if not isinstance(value, dict):
        raise RefusedModel(f"{path.name} is not a JSON object. Fetch the model again.")
    return value


def _check(folder: Path, rules: tuple[Rule, ...]) -> None:
    if not folder.is_dir():
        raise RefusedModel(f"Folder {folder}: there is no such folder. Name a model's folder.")
    files = [path for path in folder.rglob("*") if path.is_file()]
    reasons = list(dict.fromkeys(r for rule in rules for r in _reasons(rule, folder, files)))
    if reasons:
        raise RefusedModel(f"Folder {folder} was refused: {' '.join(reasons)}")


def _reasons(rule: Rule, folder: Path, files: list[Path]) -> list[str]:
    try:
        return rule(folder, files)
    except RefusedModel as problem:
        return [problem.message]


def _asks_for_code(_folder: Path, files: list[Path]) -> list[str]:
    scripts = sorted(path.name for path in files if path.suffix in {".py", ".so", ".pyc"})
    reasons = [f"It holds code ({', '.join(scripts)}); code of a model is never run."] * bool(
        scripts
    )
    for path in files:
        if path.suffix == ".json" and path.name.endswith("config.json"):
            config = read_object(path)
            if "auto_map" in config or config.get("trust_remote_code"):
                reasons.append(f"{path.name} asks for code to be run (auto_map).")
    return reasons


def _holds_no_pickles_only(folder: Path, files: list[Path]) -> list[str]:
    if list(folder.glob("*.safetensors")):
        return []
    if any(path.suffix in _PICKLES for path in files):
        return ["Its weights are pickles, which can run code; convert them to safetensors."]
    return ["It has no *.safetensors file."]


def _stays_inside(folder: Path, files: list[Path]) -> list[str]:
    root = folder.resolve()
    outside = [p.name for p in files if p.is_symlink() and root not in p.resolve().parents]
    cache_folder = root.parent.parent  # a snapshot of the hub's cache links into its "blobs"
    if all((folder / n).resolve().is_relative_to(cache_folder / "blobs") for n in outside):
        return []
    return [f"{', '.join(outside)} links to a place outside the folder."]


_SAFE: tuple[Rule, ...] = (_asks_for_code, _holds_no_pickles_only, _stays_inside)


def _has_parts(folder: Path, _files: list[Path]) -> list[str]:
    wanted = (CONFIG, TOKENIZER)
    return [f"{name} is missing." for name in wanted if not (folder / name).is_file()]


def _has_plain_weights(folder: Path, _files: list[Path]) -> list[str]:
    quantized = _config(folder).get("quantization_config")
    if not quantized:
        return []
    method = quantized.get("quant_method", "") if isinstance(quantized, dict) else ""
    what = f"quantized ({method or 'quantization_config'})"
    return [f"Its weights are {what}, which is neither served nor tuned; use the original ones."]


def _has_whole_weights(folder: Path, _files: list[Path]) -> list[str]:
    if not list(folder.glob("*.safetensors")):
        return []  # said already
    for path in weight_files(folder):
        tensor_shapes(path)
    return []


def _is_of_a_known_family(folder: Path, _files: list[Path]) -> list[str]:
    model_type = _config(folder).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        return [f"{CONFIG} names no model_type."]
    problem = _family_problem(model_type)
    return [problem] if problem else []


def _has_adapter_parts(folder: Path, _files: list[Path]) -> list[str]:
    wanted = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    missing = [name for name in wanted if not (folder / name).is_file()]
    return [f"{name} is missing; leave --base out for a whole model." for name in missing]


def _config(folder: Path) -> dict[str, Any]:
    return read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}


@cache
def _family_problem(model_type: str) -> str:
    """Ask transformers, in a process of its own; what it knows does not change meanwhile."""
    asked = subprocess.run(
        [sys.executable, "-m", "sintonia.models.families", model_type],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode and not asked.stdout:
        last = (asked.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return f'Whether transformers knows "{model_type}" could not be found out: {last[:200]}.'
    return asked.stdout
