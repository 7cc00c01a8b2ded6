"""Which tiles of the attention matrix a forest touches, for kernels that compute tile by tile.

A tile is a square of some size. One that every query of it sees whole needs no mask, one that no
query sees is left out. Shapes: T tokens, B tiles in a row.

Invariant: no pair outside the tiles is seen, and every pair of a full tile is. A partial tile may
turn out to be empty where a window is narrow; its mask says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sintonia.data.forest import Forest, IntArray

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Tiles:
    """Row: which queries; column: which keys."""

    partial_BB: BoolArray
    full_BB: BoolArray


def tiles(forest: Forest, size: int, window: int | None = None) -> Tiles:
    """Return the tiles of a forest whose tokens fill whole ones.

    From the extremes of each tile's tokens alone: B x B work, never T x T. ``window`` is how far
    a layer looks, in positions.
    """
    assert forest.num_tokens % size == 0, "tokens fill whole tiles"
    first_B = np.arange(0, forest.num_tokens, size)
    ends_B = _extremes(forest.subtree_end_T, size)
    is_below_BB = first_B < first_B[:, None]
    is_diagonal_BB = np.eye(len(first_B), dtype=np.bool_)
    # The subtree of some key reaches the first query; that of each key holds the last one.
    seen_BB = is_diagonal_BB | (is_below_BB & (ends_B.largest > first_B[:, None]))
    full_BB = is_below_BB & (ends_B.least >= first_B[:, None] + size)
    if window is not None:
        depths_B = _extremes(forest.positions_T, size)
        seen_BB &= depths_B.least[:, None] - depths_B.largest < window
        full_BB &= depths_B.largest[:, None] - depths_B.least < window
    return Tiles(seen_BB & ~full_BB, full_BB & seen_BB)


@dataclass(frozen=True)
class _Extremes:
    least: IntArray
    largest: IntArray


def _extremes(values_T: IntArray, size: int) -> _Extremes:
    values_BS = values_T.reshape(-1, size)
    return _Extremes(values_BS.min(axis=1), values_BS.max(axis=1))
