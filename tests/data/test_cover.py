"""The blocks of a forest hold its attention pattern, each pair once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sintonia.data.cover import SEGMENT_TOKENS, cover
from sintonia.data.forest import EncodedSequence, build_forest

TOKENS = st.lists(st.integers(0, 2), min_size=2, max_size=14)


def pattern(ends):
    place = np.arange(len(ends))
    return (place <= place[:, None]) & (place[:, None] < ends)


def filled(found, size):
    """Return how often each pair is held."""
    times = np.zeros((size, size), int)
    for square in found.squares:
        length = square.end - square.start
        mask = np.tri(length, dtype=bool) if square.mask_BB is None else square.mask_BB
        times[square.start : square.end, square.start : square.end] += mask
    for one in found.rectangles:
        times[one.first_query : one.end_query, one.first_key : one.end_key] += 1
    return times


@given(rows=st.lists(TOKENS, min_size=1, max_size=9), small_tokens=st.integers(1, 30))
def test_every_pair_of_the_pattern_is_in_one_block(rows, small_tokens):
    sequences = [EncodedSequence(np.array(r, np.int32), 1, 1.0, i) for i, r in enumerate(rows)]
    forest = build_forest(sequences)
    found = cover(forest.subtree_end_T, small_tokens)
    assert (filled(found, forest.num_tokens) == pattern(forest.subtree_end_T)).all()
    queries = [place for s in found.squares for place in range(s.start, s.end)]
    assert sorted(queries) == list(range(forest.num_tokens))


def test_rows_without_a_shared_prefix_are_squares_on_the_diagonal():
    ends = np.repeat([50, 100, 150], 50)
    found = cover(ends)
    assert [(s.start, s.end, s.mask_BB) for s in found.squares] == [
        (0, 50, None),
        (50, 100, None),
        (100, 150, None),
    ]
    assert not found.rectangles


def test_a_shared_prefix_is_one_square_and_one_rectangle():
    prefix, branches = [180] * 100, [140] * 40 + [180] * 40
    found = cover(np.array(prefix + branches))
    shapes = [(s.start, s.end) for s in found.squares]
    assert sorted(shapes) == [(0, 100), (100, 140), (140, 180)]
    (one,) = found.rectangles
    assert (one.first_query, one.end_query, one.first_key, one.end_key) == (100, 180, 0, 100)


def test_a_long_segment_is_halved_until_its_squares_are_short():
    size = 3 * SEGMENT_TOKENS
    found = cover(np.full(size, size))
    assert {s.end - s.start for s in found.squares} == {size // 4}
    assert len(found.rectangles) == 3
    assert (filled(found, size) == pattern(np.full(size, size))).all()


def test_small_neighbours_share_a_square():
    ends = np.repeat(np.arange(10, 101, 10), 10)
    found = cover(ends, small_tokens=50)
    assert [(s.start, s.end) for s in found.squares] == [(0, 50), (50, 100)]
