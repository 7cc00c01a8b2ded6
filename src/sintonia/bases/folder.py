"""A base model as a sealed folder: what it must hold, what it may not, and its facts.

::

    models/base/NAME/
      config.json  model*.safetensors     transformers' own
      tokenizer.json  chat_template.jinja tokens and chat format, read without torch
      sintonia.json                       the facts below
      manifest.json                       sha256 of each file; written last
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sintonia.domain.models import BaseRef
from sintonia.errors import RefusedModel
from sintonia.sealed import MANIFEST, hash_file, read_json, seal, write_json

FACTS = "sintonia.json"
TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
OWN_TEMPLATE = "own_chat_template.jinja"
"""The model's own chat format where the catalog names one of ours."""
ADAPTER_CONFIG = "adapter_config.json"
DEFAULT_LEARNING_RATE = 5e-4
"""For models that no catalog entry knows."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_WANTED = ("*.safetensors", "*.json", "*.jinja", "LICENSE*", "tokenizer.model", "vocab.txt")


@dataclass(frozen=True)
class BaseFacts:
    """``sintonia.json``: what serving and training need to know beside the weights.

    Nothing here depends on when or where the model was fetched, so that the same model has the
    same hash on every machine.
    """

    name: str
    license: str
    context_tokens: int
    stop_tokens: tuple[str, ...]
    """Each ends an answer; the first is learned as the end of a turn."""
    bos_token: str | None
    """Stands before a raw prompt that is empty."""
    source: str
    """In words: which wheel, repository or folder it came from."""


@dataclass(frozen=True)
class BaseModel:
    """A base model that is on disk and whole."""

    ref: BaseRef
    facts: BaseFacts
    created_at: int
    """Unix seconds when it was put here."""
    learning_rate: float = DEFAULT_LEARNING_RATE
    """For LoRA and a multiplier of 1; the catalog's word for its models."""


def read_base(folder: Path) -> BaseModel | None:
    """Return the model in a sealed ``folder``, or ``None`` when it is not whole."""
    try:
        facts = read_facts(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (folder / MANIFEST).is_file():
        return None
    ref = BaseRef(facts.name, str(folder), hash_file(folder / MANIFEST))
    return BaseModel(ref, facts, created_at=int((folder / MANIFEST).stat().st_mtime))


def read_facts(folder: Path) -> BaseFacts:
    """Read ``sintonia.json`` of a base or of a tuned model."""
    stored = read_json(folder / FACTS)
    known = {field.name: stored[field.name] for field in dataclasses.fields(BaseFacts)}
    return BaseFacts(**{**known, "stop_tokens": tuple(stored["stop_tokens"])})


def check_safe(folder: Path) -> None:
    """Refuse a folder that wants code to run, holds pickles only, or misses a part.

    Raises ``RefusedModel`` with all reasons at once.
    """
    if not folder.is_dir():
        raise RefusedModel(f"Folder {folder}: there is no such folder. Name a model's folder.")
    files = [path for path in folder.rglob("*") if path.is_file()]
    reasons = [reason for rule in _RULES for reason in rule(folder, files)]
    if reasons:
        raise RefusedModel(f"Folder {folder} was refused: {' '.join(reasons)}")


def _asks_for_code(_folder: Path, files: list[Path]) -> list[str]:
    scripts = sorted(path.name for path in files if path.suffix in {".py", ".so", ".pyc"})
    reasons = [f"It holds code ({', '.join(scripts)}); code of a model is never run."] * bool(
        scripts
    )
    for path in files:
        if path.suffix == ".json" and path.name.endswith("config.json"):
            config = _json_object(path)
            if "auto_map" in config or config.get("trust_remote_code"):
                reasons.append(f"{path.name} asks for code to be run (auto_map).")
    return reasons


def _has_weights(folder: Path, files: list[Path]) -> list[str]:
    if list(folder.glob("*.safetensors")):
        return []
    if any(path.suffix in _PICKLES for path in files):
        return ["Its weights are pickles, which can run code; convert them to safetensors."]
    return ["It has no *.safetensors file."]


def _has_parts(folder: Path, _files: list[Path]) -> list[str]:
    config = ADAPTER_CONFIG if (folder / ADAPTER_CONFIG).exists() else "config.json"
    wanted = [config] if config == ADAPTER_CONFIG else [config, TOKENIZER]
    return [f"{name} is missing." for name in wanted if not (folder / name).is_file()]


def _stays_inside(folder: Path, files: list[Path]) -> list[str]:
    root = folder.resolve()
    outside = [p.name for p in files if p.is_symlink() and root not in p.resolve().parents]
    cache = root.parent.parent  # a snapshot of the hub's cache links into its sibling "blobs"
    if all((folder / n).resolve().is_relative_to(cache / "blobs") for n in outside):
        return []
    return [f"{', '.join(outside)} links to a place outside the folder."]


_RULES: tuple[Callable[[Path, list[Path]], list[str]], ...] = (
    _asks_for_code,
    _has_weights,
    _has_parts,
    _stays_inside,
)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        raise RefusedModel(f"{path.name} is not JSON. Fetch the model again.") from None
    return value if isinstance(value, dict) else {}


def copy_weights(source: Path, target: Path) -> None:
    """Copy the files that a model needs, and nothing else, into the new folder ``target``."""
    target.mkdir(parents=True)
    for pattern in _WANTED:
        for path in sorted(source.glob(pattern)):
            if path.name not in {MANIFEST, FACTS}:
                shutil.copyfile(path, target / path.name)


def our_template(name: str, default_system: str) -> str:
    """Return a template of ours with a base's own default system message put in."""
    text = (
        resources.files("sintonia.data")
        .joinpath("templates", f"{name}.jinja")
        .read_text(encoding="utf-8")
    )
    return f"{{%- set default_system = {json.dumps(default_system)} -%}}\n{text}"


def finish(folder: Path, final: Path, facts: BaseFacts) -> BaseModel:
    """Write the facts, seal ``folder`` and move it to ``final``."""
    write_json(folder / FACTS, dataclasses.asdict(facts))
    seal(folder, final)
    base = read_base(final)
    assert base is not None
    return base


def describe(folder: Path, given: Mapping[str, Any]) -> BaseFacts:
    """Return a model's facts from its own files, ``given`` ones first."""
    config = _json_object(folder / "config.json")
    generation = _optional_object(folder / "generation_config.json")
    tokenizer = _optional_object(folder / "tokenizer_config.json")
    names = _TokenNames(folder)
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    stops = [names.text(i) for i in (ends if isinstance(ends, list) else [ends])]
    own_end = _token_text(tokenizer.get("eos_token"))
    stop_tokens = list(dict.fromkeys(t for t in [own_end, *stops] if t))
    if not stop_tokens:
        raise RefusedModel("The model names no end token (eos_token). Add it to config.json.")
    facts: dict[str, Any] = {
        "license": "unknown",
        "context_tokens": config.get("max_position_embeddings") or config.get("n_positions"),
        "stop_tokens": tuple(stop_tokens),
        "bos_token": _token_text(tokenizer.get("bos_token"))
        or names.text(config.get("bos_token_id")),
    }
    facts.update(given)
    if not facts["context_tokens"]:
        raise RefusedModel("config.json does not say how long the context is.")
    return BaseFacts(**facts)


class _TokenNames:
    """Texts of token ids, from ``tokenizer.json``."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))

    def text(self, token: int | None) -> str | None:
        return None if token is None else self._tokenizer.id_to_token(token)


def _token_text(value: Any) -> str | None:
    """Return the text of a token that a config names as text or as an object."""
    return value.get("content") if isinstance(value, dict) else value


def _optional_object(path: Path) -> dict[str, Any]:
    return _json_object(path) if path.exists() else {}
