"""The forest: a batch in which every shared prefix is laid out, and computed, once.

Token sequences are merged into prefix trees, written depth first in one row of T tokens. One
integer for each token describes the whole attention pattern: token *q* attends to *k* exactly
when ``k <= q < subtree_end[k]``. Positions are depths, so every branch sees what it would see
alone, and loss and gradient equal those of separate rows.

Shapes: T tokens of the forest, N learned targets, S sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class EncodedSequence:
    """Tokens of one learned turn; those from ``num_prompt_tokens`` on are learned."""

    tokens: NDArray[np.int32]
    num_prompt_tokens: int
    weight: float
    row: int
    """Of the data file, from 0."""
    place: int = 0
    """Among its row's sequences, from 0; of a preference pair 0 is the preferred one."""
    reference: float = 0.0
    """Log-probability of what is learned, as the job began, where the objective asks for it."""
    is_apart: bool = False
    """Whether it is laid out whole, though others begin alike: dropout makes rows differ, and
    some models follow no forest."""


@dataclass(frozen=True)
class Forest:
    """A batch.

    The last shared token predicts a different next token in each branch, so what is learned
    is a list of (position, target, weight) and not a label for each token.
    """

    tokens_T: IntArray
    positions_T: IntArray
    subtree_end_T: IntArray
    predict_from_N: IntArray
    """The token of the forest whose output predicts the target."""
    targets_N: IntArray
    weights_N: FloatArray
    sequence_of_N: IntArray
    """Which of the given sequences the target belongs to."""
    num_sequences: int
    rows_S: IntArray
    """The row of each sequence; those of a forest are numbered as they were given."""
    places_S: IntArray
    references_S: NDArray[np.float64]

    @property
    def num_tokens(self) -> int:
        """T: how many tokens are computed."""
        return len(self.tokens_T)

    def filled_to(self, multiple: int) -> Forest:
        """Return the forest with single tokens after it, up to a multiple of so many.

        Each is a tree of its own, so nothing sees it, and nothing is learned from it.
        """
        missing = -self.num_tokens % multiple
        if not missing:
            return self
        places = np.arange(self.num_tokens, self.num_tokens + missing, dtype=np.int64)
        return replace(
            self,
            tokens_T=np.append(self.tokens_T, np.full(missing, self.tokens_T[0])),
            positions_T=np.append(self.positions_T, np.zeros(missing, np.int64)),
            subtree_end_T=np.append(self.subtree_end_T, places + 1),
        )


def build_forest(sequences: Sequence[EncodedSequence]) -> Forest:
    """Merge ``sequences`` into a forest.

    Sorted sequences are a depth-first walk: each shares its longest prefix with the one
    before it, so only what follows that prefix is new.
    """
    assert sequences, "a forest needs a sequence"
    order = sort_order(sequences)
    tokens: list[NDArray[np.int32]] = []
    depths: list[IntArray] = []
    learned: list[tuple[IntArray, NDArray[np.int32], float, int]] = []
    path = np.empty(0, dtype=np.int64)
    size = 0
    previous: EncodedSequence | None = None
    closed = _Closer()
    for number in order:
        sequence = sequences[number]
        shared = shared_tokens(previous, sequence)
        new = sequence.tokens[shared:]
        closed.close(path[shared:], size)
        path = np.concatenate([path[:shared], np.arange(size, size + len(new), dtype=np.int64)])
        tokens.append(new)
        depths.append(np.arange(shared, shared + len(new), dtype=np.int64))
        start = sequence.num_prompt_tokens
        learned.append((path[start - 1 : -1], sequence.tokens[start:], sequence.weight, number))
        size += len(new)
        previous = sequence
    closed.close(path, size)
    return Forest(
        tokens_T=np.concatenate(tokens).astype(np.int64),
        positions_T=np.concatenate(depths),
        subtree_end_T=closed.ends(size),
        predict_from_N=np.concatenate([places for places, _, _, _ in learned]),
        targets_N=np.concatenate([targets for _, targets, _, _ in learned]).astype(np.int64),
        weights_N=np.concatenate(
            [np.full(len(targets), weight, np.float32) for _, targets, weight, _ in learned]
        ),
        sequence_of_N=np.concatenate(
            [np.full(len(targets), number, np.int64) for _, targets, _, number in learned]
        ),
        num_sequences=len(sequences),
        rows_S=np.array([sequence.row for sequence in sequences], np.int64),
        places_S=np.array([sequence.place for sequence in sequences], np.int64),
        references_S=np.array([sequence.reference for sequence in sequences], np.float64),
    )


class _Closer:
    """Collects where the subtree of each token ends."""

    def __init__(self) -> None:
        self._closed: list[tuple[IntArray, int]] = []

    def close(self, nodes: IntArray, end: int) -> None:
        """The subtrees of ``nodes`` end before token ``end``."""
        self._closed.append((nodes, end))

    def ends(self, size: int) -> IntArray:
        ends = np.zeros(size, dtype=np.int64)
        for nodes, end in self._closed:
            ends[nodes] = end
        return ends


def pack(sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
    """Yield forests of at most ``max_tokens`` that hold every sequence once.

    Neighbours in sorted order share the most, so they stay together. A sequence longer than
    the limit gets a forest of its own.
    """
    group: list[EncodedSequence] = []
    size = 0
    for number in sort_order(sequences):
        sequence = sequences[number]
        shared = shared_tokens(group[-1] if group else None, sequence)
        new = len(sequence.tokens) - shared
        if group and size + new > max_tokens:
            yield build_forest(group)
            group, size, new = [], 0, len(sequence.tokens)
        group.append(sequence)
        size += new
    if group:
        yield build_forest(group)


def pack_rows(sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
    """Yield forests as :func:`pack` does, but with the sequences of a row in one forest.

    The sequences of a row are neighbours in ``sequences``.
    """
    rows = [list(group) for _, group in groupby(sequences, key=lambda sequence: sequence.row)]
    group: list[EncodedSequence] = []
    size = 0
    for number in sort_order([row[0] for row in rows]):
        row = rows[number]
        # Shared with the row before it: never more than the forest really shares.
        shared = shared_tokens(group[-1] if group else None, row[0])
        new = count_tokens(row)
        if group and size + new - shared > max_tokens:
            yield build_forest(group)
            group, size, shared = [], 0, 0
        group += row
        size += new - shared
    if group:
        yield build_forest(group)


def sort_order(sequences: Sequence[EncodedSequence]) -> list[int]:
    """Return the sequences' numbers in the order of their tokens; equal ones keep theirs."""
    # Big-endian bytes compare as the token ids do.
    keys = [sequence.tokens.astype(">u4").tobytes() for sequence in sequences]
    return sorted(range(len(sequences)), key=keys.__getitem__)


def shared_tokens(first: EncodedSequence | None, second: EncodedSequence) -> int:
    """Return how many tokens of ``second`` are laid out already when ``first`` is."""
    if first is None or first.is_apart or second.is_apart:
        return 0
    return common_prefix(first.tokens, second.tokens)


def common_prefix(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """Return how many tokens the two begin with alike."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length


def count_tokens(sequences: Sequence[EncodedSequence]) -> int:
    """Return how many tokens the forest of ``sequences`` has."""
    if len(sequences) == 1:  # most rows of a file, of which there may be millions
        return len(sequences[0].tokens)
    order = sort_order(sequences)
    total = len(sequences[order[0]].tokens)
    for before, after in pairwise(order):
        first, second = sequences[before], sequences[after]
        total += len(second.tokens) - shared_tokens(first, second)
    return total
