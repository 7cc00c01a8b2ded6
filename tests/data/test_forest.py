from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sintonia.data.forest import EncodedSequence, build_forest, count_tokens, pack

token_lists = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=8), min_size=1, max_size=8)


def sequences(lists):
    return [
        EncodedSequence(np.array(tokens, np.int32), max(1, len(tokens) // 2), 1.0, row)
        for row, tokens in enumerate(lists)
    ]


def seen_by(forest, query):
    keys = np.arange(forest.num_tokens)
    return keys[(keys <= query) & (query < forest.subtree_end_T[keys])]


@given(token_lists)
def test_each_target_sees_exactly_its_own_sequence_before_it(lists):
    forest = build_forest(sequences(lists))
    for number, tokens in enumerate(lists):
        mine = np.flatnonzero(forest.sequence_of_N == number)
        start = max(1, len(tokens) // 2)
        assert list(forest.targets_N[mine]) == tokens[start:]
        for place, query in enumerate(forest.predict_from_N[mine]):
            path = seen_by(forest, query)
            assert list(forest.tokens_T[path]) == tokens[: start + place]
            assert list(forest.positions_T[path]) == list(range(start + place))


@given(token_lists)
def test_no_prefix_is_computed_twice(lists):
    forest = build_forest(sequences(lists))
    prefixes = {tuple(tokens[: i + 1]) for tokens in lists for i in range(len(tokens))}
    assert forest.num_tokens == len(prefixes) == count_tokens(sequences(lists))


@given(token_lists, st.integers(4, 20))
def test_packing_holds_every_sequence_once_and_keeps_the_limit(lists, limit):
    forests = list(pack(sequences(lists), limit))
    assert sum(forest.num_sequences for forest in forests) == len(lists)
    longest = max(len(tokens) for tokens in lists)
    assert all(forest.num_tokens <= max(limit, longest) for forest in forests)
