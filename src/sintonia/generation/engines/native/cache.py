"""The keys and values of one sequence.

Invariant: a sequence's cache is its own and contiguous, so what its attention computes depends
on nobody else's tokens. Writing is by position: a step that failed half-way can be repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_TOKENS = 64
"""Room grows in multiples of this."""


class SequenceCache:
    """Keys and values of every layer, growing as the sequence does.

    Shapes: K key/value heads, S tokens so far, N new tokens, D and E widths of a head.
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(
        self, layer: int, past: int, keys_KND: Tensor, values_KNE: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values from position ``past`` on; return all of the layer's so far."""
        total = past + keys_KND.shape[1]
        keys, values = self._room(layer, total, keys_KND, values_KNE)
        keys[:, past:total] = keys_KND
        values[:, past:total] = values_KNE
        return keys[:, :total], values[:, :total]

    @property
    def size_bytes(self) -> int:
        """What the cache takes at the moment."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._layers.values())

    def _room(
        self, layer: int, total: int, keys_KND: Tensor, values_KNE: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return buffers with room for ``total`` tokens that hold what the layer held."""
        held = self._layers.get(layer)
        if held is not None and held[0].shape[1] >= total:
            return held
        grown = (
            _grow(held[0] if held else None, total, keys_KND),
            _grow(held[1] if held else None, total, values_KNE),
        )
        self._layers[layer] = grown
        return grown


def _grow(old: Tensor | None, total: int, like: Tensor) -> Tensor:
    """Return a buffer for ``total`` tokens or half as many again as before, whichever is more."""
    held = old.shape[1] if old is not None else 0
    blocks = -(-max(total, held * 3 // 2) // BLOCK_TOKENS)
    buffer = torch.empty(
        (like.shape[0], blocks * BLOCK_TOKENS, like.shape[2]), dtype=like.dtype, device=like.device
    )
    if old is not None:
        buffer[:, :held] = old
    return buffer
