"""Tiles of a forest: none that is seen is left out, and a full one is seen whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sintonia.data.forest import EncodedSequence, Forest, build_forest
from sintonia.data.tiles import tiles

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=14), min_size=1, max_size=9)


def forest_of(rows, multiple) -> Forest:
    sequences = [EncodedSequence(np.array(r, np.int32), 1, 1.0, i) for i, r in enumerate(rows)]
    return build_forest(sequences).filled_to(multiple)


def pattern(forest: Forest, window: int | None):
    place = np.arange(forest.num_tokens)
    seen = (place <= place[:, None]) & (place[:, None] < forest.subtree_end_T)
    if window is None:
        return seen
    return seen & (forest.positions_T[:, None] - forest.positions_T < window)


def by_tile(seen, size):
    """Return how many pairs of each tile are seen."""
    number = len(seen) // size
    return seen.reshape(number, size, number, size).sum(axis=(1, 3))


@given(rows=ROWS, size=st.sampled_from([2, 4, 8]), window=st.sampled_from([None, 1, 3, 6]))
def test_tiles_hold_the_pattern(rows, size, window):
    forest = forest_of(rows, size)
    found, counts = tiles(forest, size, window), by_tile(pattern(forest, window), size)
    assert not (found.partial_BB & found.full_BB).any()
    assert (counts[found.full_BB] == size * size).all()
    assert not counts[~(found.partial_BB | found.full_BB)].any()
    if window is None:
        assert (found.full_BB == (counts == size * size)).all()
        assert ((found.partial_BB | found.full_BB) == (counts > 0)).all()


def test_a_window_leaves_out_what_lies_far_above():
    forest = forest_of([[1] * 64], 8)
    assert tiles(forest, 8).full_BB.sum() == 28
    near = tiles(forest, 8, window=8)
    assert not near.full_BB.any()
    assert near.partial_BB.sum() == 8 + 7, "each tile and the one above it"


def test_a_filled_forest_is_the_same_forest_with_lone_tokens_after_it():
    rows = [[0, 1, 2], [0, 1, 1, 1]]
    plain, filled = forest_of(rows, 1), forest_of(rows, 7)
    assert (plain.num_tokens, filled.num_tokens) == (5, 7)
    assert (pattern(filled, None)[:5, :5] == pattern(plain, None)).all()
    assert (pattern(filled, None)[5:] == np.eye(7, dtype=bool)[5:]).all()
    assert filled.predict_from_N.tolist() == plain.predict_from_N.tolist()
    assert forest_of(rows, 5).num_tokens == 5
