"""How long a text a model reads, as its ``config.json`` tells.

Two kinds of rotary embedding change what they compute for every token once a text is longer than
the model was first trained on: ``longrope`` switches to other factors, ``dynamic`` stretches with
the length. A prefix would then mean one thing in a short text and another in a long one, so
neither forests nor batches of requests could share it, and training and serving would differ.
Such a model is used up to the length where nothing changes. The other kinds (``linear``,
``yarn``, ``llama3``) are the same at every length and are used in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SWITCHING = frozenset({"longrope", "su", "dynamic"})
_FAMILIES_THAT_SAY_YARN = ("phi3", "phi4")
"""Their old configs say ``su`` or ``yarn`` and mean ``longrope``."""
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class Context:
    """How long a text a model reads."""

    tokens: Any
    """As the config says; whoever uses it checks that it is a number."""
    note: str = ""
    """Why it is less than the config's own length, if it is."""


def context_of(config: Mapping[str, Any]) -> Context:
    """Return the length up to which the model computes every token in one way."""
    limit = config.get("max_position_embeddings") or config.get("n_positions")
    ropes = list(_ropes(config))
    kinds = [kind for rope in ropes if (kind := _switching_kind(rope, config))]
    originals = [source.get(_ORIGINAL) for source in (*ropes, config)]
    lengths = [n for n in originals if type(n) is int and n > 0]
    if not kinds or type(limit) is not int or min(lengths, default=limit) >= limit:
        return Context(limit)
    note = (
        f"used up to {min(lengths)} of its {limit} tokens: its position embedding ({kinds[0]}) "
        "computes longer texts in another way"
    )
    return Context(min(lengths), note)


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of rotary embeddings, old key and new, one for all or for each layer."""
    for key in ("rope_parameters", "rope_scaling"):
        found = config.get(key)
        if isinstance(found, Mapping):
            yield found
            yield from (value for value in found.values() if isinstance(value, Mapping))


def _switching_kind(rope: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    kind = rope.get("rope_type") or rope.get("type")
    family = str(config.get("model_type"))
    if kind == "yarn" and family.startswith(_FAMILIES_THAT_SAY_YARN):
        return "longrope"
    return str(kind) if kind in _SWITCHING else None
