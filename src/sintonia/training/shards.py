"""A batch in shards, one for each process: whole rows, neighbours together, equal work.

Invariant: the cut is a pure function of the batch and the number of shards, so each process finds
its own without asking, and a batch has the same rows whatever the number is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from sintonia.data.forest import EncodedSequence, count_tokens, shared_tokens, sort_order


def shards(sequences: Sequence[EncodedSequence], number: int) -> list[list[EncodedSequence]]:
    """Cut a batch into ``number`` lists; with fewer rows than that, some are empty.

    The sequences of a row are neighbours in ``sequences`` and stay together. Rows are cut in the
    order of their tokens, so those that begin alike are computed by one process, and the largest
    shard has as few computed tokens as such a cut allows.
    """
    rows = [list(group) for _, group in groupby(sequences, key=lambda sequence: sequence.row)]
    rows = [rows[place] for place in sort_order([row[0] for row in rows])]
    starts = _starts(_costs(rows), number)
    parts = [rows[start:end] for start, end in pairwise([*starts, len(rows)])]
    return [[sequence for row in part for sequence in row] for part in parts]


def _costs(rows: Sequence[Sequence[EncodedSequence]]) -> list[tuple[int, int]]:
    """Return the tokens of each row: computed in a shard that it begins, and after the one before.

    What is shared with the row before is never more than a forest really shares.
    """
    costs = []
    previous: EncodedSequence | None = None
    for row in rows:
        tokens = count_tokens(row)
        costs.append((tokens, tokens - shared_tokens(previous, row[0])))
        previous = row[0]
    return costs


def _starts(costs: Sequence[tuple[int, int]], number: int) -> list[int]:
    """Return where each shard begins: the smallest limit that ``number`` shards can keep."""
    low = max((tokens for tokens, _ in costs), default=0)
    high = max(low, sum(tokens for tokens, _ in costs))
    while low < high:
        limit = (low + high) // 2
        if len(_filled(costs, limit)) <= number:
            high = limit
        else:
            low = limit + 1
    starts = _filled(costs, low)
    return [*starts, *[len(costs)] * (number - len(starts))]


def _filled(costs: Sequence[tuple[int, int]], limit: int) -> list[int]:
    """Return where shards begin that are filled up to ``limit`` one after the other.

    A shard without its first row is never larger, so no other cut needs fewer.
    """
    starts, size = [], limit + 1
    for place, (alone, after) in enumerate(costs):
        size += after
        if size > limit:
            starts.append(place)
            size = alone
    return starts
