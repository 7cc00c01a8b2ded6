"""Models that can be served: names and what stands behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from sintonia import ids

FINE_TUNED = re.compile(
    r"^ft:(?P<base>[^:]+):(?P<organization>[^:]*):(?P<suffix>[^:]*):(?P<id>[A-Za-z0-9]{8})"
    r"(:ckpt-step-(?P<step>\d+))?$"
)
"""OpenAI's grammar of tuned models' names."""


class ModelKind(StrEnum):
    """What a model record stands for."""

    BASE = "base"
    TUNED = "tuned"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class BaseRef:
    """A base model's weights, by name, place and content."""

    name: str
    folder: str
    sha256: str
    """Hash of the folder's manifest: changes when any weight, tokenizer or template does."""


@dataclass(frozen=True)
class Model:
    """A model that the store knows; a tuned one keeps its base by hash, whatever an alias says.

    One whose every weight was tuned is its own base: ``base`` has the name of the model that it
    was made from, and the place and hash of its own weights.
    """

    name: str
    kind: ModelKind
    created_at: int
    owned_by: str
    base: BaseRef
    folder: str | None = None
    """Of the adapter, its tokenizer and template; ``None`` for a base."""
    adapter_sha256: str | None = None
    """``None`` for a base and for a whole model."""
    job_id: str | None = None
    parent: str | None = None
    """The tuned model that training continued from."""


def tuned_name(base: str, organization: str, suffix: str | None) -> str:
    """Return a fresh name ``ft:BASE:ORGANIZATION:SUFFIX:ID``.

    ``base`` that is itself a tuned model's name gives its base segment (OpenAI's rule for
    continued tuning).
    """
    match = FINE_TUNED.match(base)
    segment = match["base"] if match else base
    return f"ft:{segment}:{organization}:{slug(suffix or '')}:{ids.new_model_suffix()}"


def checkpoint_name(tuned: str, step: int) -> str:
    """Return the name under which the checkpoint of ``step`` is callable."""
    return f"{tuned}:ckpt-step-{step}"


def slug(suffix: str) -> str:
    """Return ``suffix`` in the form that names use: lower case, other signs become one ``-``."""
    return re.sub(r"[^a-z0-9_.]+", "-", suffix.lower()).strip("-")
