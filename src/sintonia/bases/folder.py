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
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sintonia.bases.context import context_of
from sintonia.bases.inspection import CONFIG, TOKENIZER, read_object
from sintonia.data.renderer import Renderer
from sintonia.domain.models import BaseRef
from sintonia.errors import InvalidValue, RefusedModel
from sintonia.sealed import MANIFEST, hash_file, read_json, seal, write_json
from sintonia.weights import INDEX, WEIGHTS, weight_files

FACTS = "sintonia.json"
TEMPLATE = "chat_template.jinja"
OWN_TEMPLATE = "own_chat_template.jinja"
"""The model's own chat format where the catalog names one of ours."""
DEFAULT_LEARNING_RATE = 5e-4
"""For models that no catalog entry knows."""

COMPANIONS = (
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE,
    "LICENSE",
    "LICENSE.*",
)
"""What is kept of a model beside its weights; patterns."""
_CHATML_END = "<|im_end|>"


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
    context_note: str = ""
    """Why ``context_tokens`` is less than the model's own config says; kept only where it is."""


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
    stored = {"context_note": "", **read_json(folder / FACTS)}
    known = {field.name: stored[field.name] for field in dataclasses.fields(BaseFacts)}
    return BaseFacts(**{**known, "stop_tokens": tuple(stored["stop_tokens"])})


def copy_model(source: Path, target: Path) -> None:
    """Copy the files that a model needs, and nothing else, into the new folder ``target``.

    Raises ``RefusedModel`` when a weight file is missing.
    """
    target.mkdir(parents=True)
    weights = weight_files(source)
    patterns = COMPANIONS if weights[0].name == WEIGHTS else (*COMPANIONS, INDEX)
    companions = [path for pattern in patterns for path in sorted(source.glob(pattern))]
    for path in (*weights, *companions):
        shutil.copyfile(path, target / path.name)


def our_template(name: str, default_system: str, end_of_turn: str = _CHATML_END) -> str:
    """Return a template of ours with a base's own default system message and end token put in."""
    text = (
        resources.files("sintonia.data")
        .joinpath("templates", f"{name}.jinja")
        .read_text(encoding="utf-8")
    )
    given = f"{{%- set default_system = {json.dumps(default_system)} -%}}\n"
    quoted = end_of_turn.replace("\\", "\\\\").replace("'", "\\'")  # it stands between quotes
    return given + text.replace(_CHATML_END, quoted)


def settle_template(folder: Path, facts: BaseFacts, name: str, default_system: str) -> None:
    """Put in our template called ``name``, or ours for a model that has none.

    A model's own template that was replaced stays beside it, for comparison. Turns end in a
    token that ends the model's answers: without one it could not learn to stop.
    """
    has_own = _has_template(folder)
    if has_own and not name:
        return
    if has_own:
        (folder / TEMPLATE).rename(folder / OWN_TEMPLATE)
    end = _CHATML_END if _CHATML_END in facts.stop_tokens else facts.stop_tokens[0]
    text = our_template(name or "chatml", default_system, end)
    (folder / TEMPLATE).write_text(text, encoding="utf-8")


def _has_template(folder: Path) -> bool:
    """Tell whether a folder brings a chat format, moving one from the old place to the new."""
    if (folder / TEMPLATE).exists():
        return True
    template = _optional_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # named templates; the default is the chat format
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        return False
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    return True


def finish(folder: Path, final: Path, facts: BaseFacts) -> BaseModel:
    """Write the facts, seal ``folder`` and move it to ``final``.

    Raises ``RefusedModel`` when its chat could not be rendered: a template that is not Jinja.
    """
    stored = dataclasses.asdict(facts)
    if not facts.context_note:
        del stored["context_note"]  # the same model has the same hash as before there were notes
    write_json(folder / FACTS, stored)
    try:
        Renderer.from_folder(folder)
    except (InvalidValue, ValueError) as problem:
        raise RefusedModel(f"The tokenizer or chat template cannot be used: {problem}.") from None
    seal(folder, final)
    base = read_base(final)
    assert base is not None
    return base


def describe(folder: Path, given: Mapping[str, Any]) -> BaseFacts:
    """Return a model's facts from its own files, ``given`` ones first.

    Raises ``RefusedModel`` for files that cannot be read or that leave out a fact.
    """
    config = read_object(folder / CONFIG)
    generation = _optional_object(folder / "generation_config.json")
    tokenizer = _optional_object(folder / "tokenizer_config.json")
    tokens = _Tokens(folder)
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    own_end = tokens.known(tokenizer.get("eos_token"))
    stops = [own_end, *(tokens.text(i) for i in (ends if isinstance(ends, list) else [ends]))]
    stop_tokens = tuple(dict.fromkeys(text for text in stops if text))
    if not stop_tokens:
        raise RefusedModel(
            "The model names no end token that its tokenizer has. Add eos_token_id to config.json."
        )
    context = context_of(config)
    bos_token = tokens.known(tokenizer.get("bos_token")) or tokens.text(config.get("bos_token_id"))
    facts: dict[str, Any] = {
        "license": "unknown",
        "context_tokens": context.tokens,
        "context_note": context.note,
        "stop_tokens": stop_tokens,
        "bos_token": bos_token,
        **given,
    }
    if not isinstance(facts["context_tokens"], int) or facts["context_tokens"] < 1:
        raise RefusedModel("config.json does not say how long the context is.")
    return BaseFacts(**facts)


class _Tokens:
    """The tokens that ``tokenizer.json`` has."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_buffer((folder / TOKENIZER).read_bytes())
        except ValueError as problem:
            raise RefusedModel(f"{TOKENIZER} cannot be read: {problem}.") from None

    def text(self, token: Any) -> str | None:
        """Return the text of the token with this id, if there is one."""
        return self._tokenizer.id_to_token(token) if _is_id(token) else None

    def known(self, named: Any) -> str | None:
        """Return the token that a config names as text or as an object, if there is one."""
        text = named.get("content") if isinstance(named, dict) else named
        is_token = isinstance(text, str) and self._tokenizer.token_to_id(text) is not None
        return text if is_token else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _optional_object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}
