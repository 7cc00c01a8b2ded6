"""Attention over many sequences that lie side by side in one row.

transformers hands every layer's queries, keys and values to the function registered here; the
batch arrives as a keyword of the forward call, not through a global. Invariant: each sequence
is attended by itself, over its own cache, so its numbers do not depend on its company.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from sintonia.generation.engines.native.cache import SequenceCache

IMPLEMENTATION = "sintonia_cached"
BATCH_KEYWORD = "sintonia_batch"


@dataclass
class Segment:
    """The rows ``start`` to ``stop`` of a batch: new tokens of one sequence."""

    start: int
    stop: int
    past: int
    """How many tokens of the sequence are in its cache already."""
    cache: SequenceCache
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    """By sliding window, shared by the layers of one step."""

    def mask(self, window: int | None) -> Tensor:
        """Return which keys (columns, the last ones of the cache) each new token may see."""
        if window not in self.masks:
            first = _first_key(self, window)
            queries = torch.arange(self.past, self.past + self.stop - self.start)[:, None]
            keys = torch.arange(first, self.past + self.stop - self.start)[None, :]
            seen = keys <= queries
            if window is not None:
                seen &= queries - keys < window
            self.masks[window] = seen
        return self.masks[window]


@dataclass
class Batch:
    """What one forward call computes."""

    segments: list[Segment]
    layers_seen: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Rule:
    """How a layer weighs what it sees."""

    scaling: float | None
    window: int | None
    softcap: float | None


def register() -> None:
    """Make the function known to transformers; again is harmless.

    No mask function is registered: transformers then builds no mask for this name.
    """
    AttentionInterface.register(IMPLEMENTATION, attend_batch)


def attend_batch(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - part of the interface
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend every segment to its own past; transformers' attention interface.

    ``query``, ``key`` and ``value`` are [1, heads, T, width]; returns [1, T, heads, width].
    Raises ``RuntimeError`` for a layer that cannot be served; loading turns it into a refusal.
    """
    batch = options.get(BATCH_KEYWORD)
    layer = getattr(module, "layer_idx", None)
    if batch is None or layer is None or options.get("s_aux") is not None:
        raise RuntimeError(f"{type(module).__name__} hands over no batch, no layer or sinks")
    batch.layers_seen.add(layer)
    rule = _Rule(
        options.get("scaling"), options.get("sliding_window") or None, options.get("softcap")
    )
    attended = query.new_empty((1, query.shape[2], query.shape[1], value.shape[3]))
    for segment in batch.segments:
        rows = slice(segment.start, segment.stop)
        keys, values = segment.cache.append(layer, segment.past, key[0, :, rows], value[0, :, rows])
        one = _attend(segment, rule, query[:, :, rows], keys, values)
        attended[0, rows] = one[0].transpose(0, 1)
    return attended, None


def _attend(
    segment: Segment, rule: _Rule, query: Tensor, keys_KSD: Tensor, values_KSE: Tensor
) -> Tensor:
    """Attend one sequence's new tokens; [1, heads, N, width] as ``query``."""
    first = _first_key(segment, rule.window)
    keys, values = keys_KSD[None, :, first:], values_KSE[None, :, first:]
    single = query.shape[2] == 1
    if rule.softcap is not None:
        return _attend_capped(query, keys, values, rule, segment.mask(rule.window))
    plain_causal = not single and segment.past == 0 and _sees_all(segment, rule.window)
    mask = None if single or plain_causal else segment.mask(rule.window)
    return scaled_dot_product_attention(
        query, keys, values, mask, is_causal=plain_causal, scale=rule.scaling, enable_gqa=True
    )


def _attend_capped(
    query: Tensor, keys: Tensor, values: Tensor, rule: _Rule, mask: Tensor
) -> Tensor:
    """Attend with Gemma 2's soft cap, ``softcap * tanh(score / softcap)``, spelled out."""
    assert rule.softcap is not None
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scaling = rule.scaling if rule.scaling is not None else query.shape[3] ** -0.5
    scores = query @ keys.transpose(2, 3) * scaling
    scores = torch.tanh(scores / rule.softcap) * rule.softcap
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ values


def _sees_all(segment: Segment, window: int | None) -> bool:
    return window is None or segment.past + segment.stop - segment.start <= window


def _first_key(segment: Segment, window: int | None) -> int:
    """Return the first position that any new token of the segment sees."""
    return 0 if window is None else max(0, segment.past - window + 1)
