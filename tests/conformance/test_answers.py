"""The last word: all answers that the run has seen, against specification and known differences.

These checks run after all others, since they judge what the others called.
"""

from __future__ import annotations

import pytest

from conformance import differences, spec

ENTRIES = differences.listed()


@pytest.fixture
def ledger(wire):
    return wire.ledger


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(operation, marks=pytest.mark.endpoint(str(operation)), id=str(operation))
        for operation in spec.load().operations
    ],
)
def test_answers_are_as_the_specification_says(ledger, operation):
    if operation in ledger.absent:
        pytest.skip(f"not there: {operation}")
    if not ledger.answers[operation]:
        pytest.skip("no answer of it is JSON" if ledger.calls[operation] else "not called")
    found = differences.unlisted(ledger.departures[operation], ENTRIES)
    assert not found, "; ".join(map(str, found))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.where} {entry.what}")
def test_a_listed_difference_still_occurs(ledger, target, is_whole, entry):
    if not target.is_ours:
        pytest.skip("the list is of our own server")
    if not is_whole:
        pytest.skip("only a part of the suite has run")
    assert any(entry.covers(departure) for departure in ledger.all_departures()), (
        "this difference is gone: take it off the list"
    )
