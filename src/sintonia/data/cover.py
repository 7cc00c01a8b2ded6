"""Which blocks of the attention matrix a forest fills.

A forest's tokens lie depth first, so the pattern ``k <= q < subtree_end[k]`` is a few contiguous
blocks: a run of tokens with one end is a segment of a tree, which attends to itself causally, and
everything below it attends to all of it. A long segment is two, the second one below the first,
or the half that is masked would be computed too. Small subtrees that lie side by side share one
masked square, because a block costs a call.

Invariant: the blocks hold every pair (query, key) of the pattern exactly once and no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sintonia.data.forest import IntArray

SMALL_TOKENS = 64
"""Subtrees up to this size are not split into segments."""
SEGMENT_TOKENS = 320
"""Segments up to this size are one square."""


@dataclass(frozen=True)
class Square:
    """Tokens ``start`` to ``end`` attend among themselves."""

    start: int
    end: int
    mask_BB: NDArray[np.bool_] | None
    """True where a query (row) sees a key (column); ``None``: each sees all before it."""


@dataclass(frozen=True)
class Rectangle:
    """Tokens ``first_query`` to ``end_query`` attend to all of ``first_key`` to ``end_key``."""

    first_query: int
    end_query: int
    first_key: int
    end_key: int


@dataclass(frozen=True)
class Cover:
    """The blocks of a forest. The squares hold each query exactly once."""

    squares: tuple[Square, ...]
    rectangles: tuple[Rectangle, ...]


def cover(subtree_end_T: IntArray, small_tokens: int = SMALL_TOKENS) -> Cover:
    """Return the blocks of the forest with these subtree ends."""
    squares: list[Square] = []
    rectangles: list[Rectangle] = []
    waiting = [(0, len(subtree_end_T))]
    while waiting:
        start, end = waiting.pop()
        for first, last in _groups(subtree_end_T, start, end, small_tokens):
            if last - first <= small_tokens:
                squares.append(_square(subtree_end_T, first, last))
                continue
            # One subtree: its first segment, and below it everything else.
            below = first + _run_length(subtree_end_T[first:last])
            _halve(first, below, squares, rectangles)
            if below < last:
                rectangles.append(Rectangle(below, last, first, below))
                waiting.append((below, last))
    return Cover(tuple(squares), tuple(rectangles))


def _groups(ends: IntArray, start: int, end: int, small_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the subtrees between two tokens, small neighbours joined up to ``small_tokens``."""
    first = place = start
    while place < end:
        last = int(ends[place])
        if last - first > small_tokens and first < place:
            yield first, place
            first = place
        place = last
    yield first, end


def _halve(start: int, end: int, squares: list[Square], rectangles: list[Rectangle]) -> None:
    """Add the blocks of a segment."""
    if end - start <= SEGMENT_TOKENS:
        squares.append(Square(start, end, None))
        return
    middle = (start + end) // 2
    _halve(start, middle, squares, rectangles)
    rectangles.append(Rectangle(middle, end, start, middle))
    _halve(middle, end, squares, rectangles)


def _run_length(ends: IntArray) -> int:
    """Return how many tokens from the first on have its end."""
    differs = np.flatnonzero(ends != ends[0])
    return int(differs[0]) if len(differs) else len(ends)


def _square(ends: IntArray, start: int, end: int) -> Square:
    local = ends[start:end]
    if (local == end).all():
        return Square(start, end, None)
    place = np.arange(start, end)
    mask_BB = (place <= place[:, None]) & (place[:, None] < local)
    return Square(start, end, mask_BB)
