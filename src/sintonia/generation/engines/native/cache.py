"""The keys and values of one sequence.

Room is taken as the sequence grows, by its own tokens and never by the length of the context.
Invariant: a sequence's cache is its own and contiguous, so what its attention computes depends
on nobody else's tokens. Writing is by position: a step that failed half-way can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_TOKENS = 64
"""Room grows in multiples of this, and prompts are computed in blocks that end there."""


@dataclass(frozen=True)
class Block:
    """Keys and values of ``BLOCK_TOKENS`` tokens in a row, by layer."""

    layers: Mapping[int, tuple[Tensor, Tensor]]

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers.values())


class SequenceCache:
    """Keys and values of every layer, growing as the sequence does.

    Shapes: K key/value heads, S tokens so far, N new tokens, D and E widths of a head.
    """

    def __init__(self, max_tokens: int | None = None) -> None:
        """``max_tokens`` is how long the sequence can get; no room is taken beyond that."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._max_tokens = max_tokens
        self._capacity = 0

    @property
    def capacity_tokens(self) -> int:
        """How many tokens there is room for in every layer, or will be after the step."""
        return self._capacity

    def capacity_at(self, total: int) -> int:
        """Return how many tokens there will be room for once there are ``total`` of them.

        That is half as many again as before when it has to grow, so that it grows seldom.
        """
        if total <= self._capacity:
            return self._capacity
        wanted = self._capacity * 3 // 2
        if self._max_tokens is not None:
            wanted = min(wanted, self._max_tokens)
        return -(-max(total, wanted) // BLOCK_TOKENS) * BLOCK_TOKENS

    def append(
        self, layer: int, past: int, keys_KND: Tensor, values_KNE: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values from position ``past`` on; return all of the layer's so far."""
        total = past + keys_KND.shape[1]
        keys, values = self._room(layer, total, keys_KND, values_KNE)
        keys[:, past:total] = keys_KND
        values[:, past:total] = values_KNE
        return keys[:, :total], values[:, :total]

    def block(self, place: int) -> Block:
        """Return a copy of block number ``place``, which is whole."""
        rows = slice(place * BLOCK_TOKENS, (place + 1) * BLOCK_TOKENS)
        return Block(
            {
                layer: (keys[:, rows].clone(), values[:, rows].clone())
                for layer, (keys, values) in self._layers.items()
            }
        )

    def take_over(self, place: int, blocks: Sequence[Block]) -> None:
        """Write ``blocks`` one after the other, the first as block number ``place``."""
        for number, block in enumerate(blocks, place):
            for layer, (keys, values) in block.layers.items():
                self.append(layer, number * BLOCK_TOKENS, keys, values)

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
        self._capacity = self.capacity_at(total)
        grown = (
            _grow(held[0] if held else None, self._capacity, keys_KND),
            _grow(held[1] if held else None, self._capacity, values_KNE),
        )
        self._layers[layer] = grown
        return grown


def _grow(old: Tensor | None, capacity: int, like: Tensor) -> Tensor:
    """Return a buffer for ``capacity`` tokens that begins with what ``old`` held."""
    buffer = torch.empty(
        (like.shape[0], capacity, like.shape[2]), dtype=like.dtype, device=like.device
    )
    if old is not None:
        buffer[:, : old.shape[1]] = old
    return buffer
