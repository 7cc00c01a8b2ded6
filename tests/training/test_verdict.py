"""What synthetic curves mean, in words."""

from __future__ import annotations

import math

import pytest

from sintonia.runs.curve import StepPoint
from sintonia.runs.spec import EarlyStopping
from sintonia.training.stopping import standing
from sintonia.training.verdict import VerdictKind, judge, not_a_number

EVERY = 10


def curve(losses, validations=()):
    """A point for each loss; ``validations`` are measured at every tenth step."""
    by_step = {EVERY * (number + 1): loss for number, loss in enumerate(validations)}
    return [StepPoint(n, loss, by_step.get(n)) for n, loss in enumerate(losses, 1)]


def falling(count, start=2.0, end=0.2):
    rate = math.log(end / start) / count
    return [start * math.exp(rate * n) for n in range(count)]


def test_a_validation_loss_that_rises_while_training_falls_is_overfitting_since_its_lowest_step():
    verdict = judge(curve(falling(60), [1.5, 1.2, 1.0, 1.1, 1.3, 1.6]))
    assert (verdict.kind, verdict.step) == (VerdictKind.OVERFITTING, 30)
    assert "the validation loss has risen since step 30 (it was 1)" in verdict.message
    assert "while the training loss fell" in verdict.message


def test_the_words_of_overfitting_stay_the_same_while_it_goes_on():
    earlier = judge(curve(falling(60)[:50], [1.5, 1.2, 1.0, 1.1, 1.3]))
    later = judge(curve(falling(60), [1.5, 1.2, 1.0, 1.1, 1.3, 1.6]))
    assert earlier.message == later.message


@pytest.mark.parametrize(
    "validations", [[1.5, 1.2, 1.0, 0.9, 0.8, 0.7], [1.5, 1.2, 1.0, 1.001, 1.002, 1.005]]
)
def test_a_validation_loss_that_falls_or_stays_is_no_overfitting(validations):
    verdict = judge(curve(falling(60), validations))
    assert verdict.kind is VerdictKind.LEARNED
    assert "the validation loss from 1.5 to" in verdict.message


def test_both_losses_rising_is_divergence_and_no_overfitting():
    losses = [*falling(30, 2.0, 0.5), *(3.0 for _ in range(30))]
    verdict = judge(curve(losses, [1.5, 1.2, 1.0, 2.0, 3.0, 3.5]))
    assert verdict.kind is VerdictKind.DIVERGED
    assert "Lower learning_rate_multiplier" in verdict.message


def test_a_loss_that_gives_back_most_of_its_fall_has_diverged():
    losses = [*falling(40, 2.0, 0.3), *(1.7 for _ in range(20))]
    assert judge(curve(losses)).kind is VerdictKind.DIVERGED


def test_one_bad_batch_at_the_end_is_no_divergence():
    assert judge(curve([*falling(59), 9.0])).kind is VerdictKind.LEARNED


def test_noise_around_a_falling_loss_is_learning():
    losses = [loss * (1 + 0.3 * math.sin(7.0 * n)) for n, loss in enumerate(falling(100))]
    assert judge(curve(losses)).kind is VerdictKind.LEARNED


def test_a_loss_that_stays_says_that_nothing_was_learned():
    verdict = judge(curve([2.0 + 0.01 * (n % 3) for n in range(40)]))
    assert verdict.kind is VerdictKind.NOTHING_LEARNED
    assert "Raise learning_rate_multiplier" in verdict.message


def test_rows_that_were_known_before_are_no_failure():
    assert judge(curve([0.01] * 40)).kind is VerdictKind.LEARNED


def test_a_few_steps_mean_nothing_yet():
    assert judge(curve([2.0, 1.0, 3.0, 9.0])) is None
    assert judge([]) is None


def test_a_loss_that_is_not_a_number_names_its_cause():
    assert "diverged. Lower learning_rate_multiplier (it is 50)" in (
        not_a_number(7, 50.0, has_learned=True).message
    )
    assert "before anything was learned" in not_a_number(1, 1.0, has_learned=False).message


def test_patience_counts_validations_without_an_improvement():
    losses = falling(60)
    usual = EarlyStopping(patience=2)
    assert standing(curve(losses[:5]), usual) is None
    going = standing(curve(losses[:40], [1.5, 1.0, 1.1, 0.9]), usual)
    assert (going.best_step, going.num_stale, going.is_over) == (40, 0, False)
    over = standing(curve(losses, [1.5, 1.0, 0.9, 0.9, 1.1]), usual)
    assert (over.best_step, over.last_step, over.num_stale, over.is_over) == (30, 50, 2, True)
    assert "The model is checkpoint step 30" in over.model_message
    assert "step 50" in over.end_message


def test_less_than_the_least_improvement_is_none_but_the_best_is_the_lowest():
    found = standing(
        curve(falling(30), [1.0, 0.95, 0.91]), EarlyStopping(patience=2, min_delta=0.1)
    )
    assert (found.best_step, found.num_stale, found.is_over) == (30, 2, True)


def test_many_small_improvements_count_once_they_add_up():
    found = standing(
        curve(falling(30), [1.0, 0.95, 0.85]), EarlyStopping(patience=2, min_delta=0.1)
    )
    assert (found.num_stale, found.is_over) == (0, False)
