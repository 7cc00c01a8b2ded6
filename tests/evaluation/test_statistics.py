"""Wilson's interval against published numbers and its own definition."""

import math

import pytest

from sintonia.evaluation.statistics import Interval, wilson_interval

Z95 = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in
        # Medicine 17 (1998), table I, method 3 (score, no continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_equals_published_values(successes, trials, low, high):
    interval = wilson_interval(successes, trials)

    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 7), (30, 60), (44, 60), (59, 60)])
def test_both_ends_solve_the_score_equation(successes, trials):
    interval = wilson_interval(successes, trials)

    for end in (interval.low, interval.high):
        distance = abs(successes / trials - end)
        assert distance == pytest.approx(Z95 * math.sqrt(end * (1 - end) / trials))


def test_no_success_and_no_failure_touch_the_ends_exactly():
    assert wilson_interval(0, 60).low == 0.0
    assert wilson_interval(60, 60).high == 1.0
    assert wilson_interval(60, 60).low == pytest.approx(1 - wilson_interval(0, 60).high)


def test_without_trials_nothing_is_known():
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)


def test_more_confidence_makes_a_wider_interval():
    narrow, wide = wilson_interval(30, 60, 0.9), wilson_interval(30, 60, 0.99)

    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, trials)


def test_an_impossible_confidence_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence=1.0)
