"""What a curve means, in words: a pure function of what the steps measured.

Training losses are medians over a window of steps, since one batch says little and a bad one too
much. Validation losses are those over all validation rows: the same rows each time, so that a
small rise means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import median

from sintonia.runs.curve import StepPoint

WINDOWS = 5
"""A curve is read as so many windows of steps."""
MIN_STEPS = 10
"""Shorter curves mean nothing yet."""
RISE = 1.005
"""A validation loss this much above the lowest has risen."""
FALL = 0.98
"""A training loss this much below another has fallen."""
BLOWN_UP = 1.2
"""A training loss this much above the first has diverged."""
KNOWN_LOSS = 0.05
"""Rows whose loss begins below this were known before."""


class VerdictKind(StrEnum):
    """What came of a run."""

    LEARNED = "learned"
    OVERFITTING = "overfitting"
    DIVERGED = "diverged"
    NOT_A_NUMBER = "not_a_number"
    NOTHING_LEARNED = "nothing_learned"

    @property
    def is_good(self) -> bool:
        """Tell whether there is nothing to do about it."""
        return self is VerdictKind.LEARNED


@dataclass(frozen=True)
class Verdict:
    """What a curve means."""

    kind: VerdictKind
    step: int
    """Since when it is so; of what was learned, the last step."""
    message: str


def judge(curve: Sequence[StepPoint]) -> Verdict | None:
    """Return what ``curve`` (one point for each step) means; ``None`` while it is too short."""
    if len(curve) < MIN_STEPS:
        return None
    windows = _windows(curve)
    for look in (_diverged, _overfitting, _nothing_learned):
        found = look(curve, windows)
        if found is not None:
            return found
    return _learned(curve, windows)


def not_a_number(step: int, multiplier: float, *, has_learned: bool) -> Verdict:
    """Return the verdict of a run whose loss or gradient became infinite or not a number.

    ``has_learned`` tells whether the weights had changed at all by then.
    """
    if not has_learned:
        cause = (
            "before anything was learned: the model's own numbers overflow. "
            "Use precision float32, or another base model."
        )
    else:
        cause = (
            f"training diverged. Lower learning_rate_multiplier (it is {multiplier:g}), "
            "or keep clipping on."
        )
    message = f"The loss is not a number at step {step}: {cause}"
    return Verdict(VerdictKind.NOT_A_NUMBER, step, message)


@dataclass(frozen=True)
class _Window:
    last_step: int
    loss: float


def _windows(curve: Sequence[StepPoint]) -> list[_Window]:
    """Split the curve into ``WINDOWS`` of nearly equal size."""
    cuts = [len(curve) * part // WINDOWS for part in range(WINDOWS + 1)]
    parts = [curve[start:end] for start, end in pairwise(cuts)]
    return [_Window(part[-1].step, median(p.train_loss for p in part)) for part in parts]


def _diverged(_curve: Sequence[StepPoint], windows: Sequence[_Window]) -> Verdict | None:
    """Tell a training loss that ended well above its start, or gave back most of its fall."""
    first, last = windows[0], windows[-1]
    lowest = min(windows, key=lambda window: window.loss)
    fall = first.loss - lowest.loss
    gave_back = fall > KNOWN_LOSS and last.loss > lowest.loss + fall / 2
    if not gave_back and last.loss <= first.loss * BLOWN_UP:
        return None
    message = (
        f"Training diverged: its loss has risen from {lowest.loss:.3g} around step "
        f"{lowest.last_step} to {last.loss:.3g}. Lower learning_rate_multiplier."
    )
    return Verdict(VerdictKind.DIVERGED, lowest.last_step, message)


def _overfitting(curve: Sequence[StepPoint], _windows: Sequence[_Window]) -> Verdict | None:
    """Tell a validation loss that has risen while the training loss went on falling."""
    measured = [(place, p) for place, p in enumerate(curve) if p.full_valid_loss is not None]
    if len(measured) < 2:
        return None
    place, best = min(measured, key=lambda pair: pair[1].full_valid_loss or 0.0)
    end, last = measured[-1]
    best_loss, last_loss = best.full_valid_loss or 0.0, last.full_valid_loss or 0.0
    if last_loss <= best_loss * RISE:
        return None
    size = min(place + 1, end - place)
    before, after = curve[place + 1 - size : place + 1], curve[end + 1 - size : end + 1]
    if _mean(after) >= _mean(before) * FALL:
        return None
    message = (
        f"Overfitting: the validation loss has risen since step {best.step} "
        f"(it was {best_loss:.3g}) while the training loss fell. "
        "Train for fewer epochs, or with more rows."
    )
    return Verdict(VerdictKind.OVERFITTING, best.step, message)


def _nothing_learned(_curve: Sequence[StepPoint], windows: Sequence[_Window]) -> Verdict | None:
    first, last = windows[0], windows[-1]
    if first.loss < KNOWN_LOSS or last.loss < first.loss * FALL:
        return None
    message = (
        f"Nothing was learned: the training loss was {first.loss:.3g} at the beginning and is "
        f"{last.loss:.3g} after step {last.last_step}. "
        "Raise learning_rate_multiplier, or train for more epochs."
    )
    return Verdict(VerdictKind.NOTHING_LEARNED, last.last_step, message)


def _learned(curve: Sequence[StepPoint], windows: Sequence[_Window]) -> Verdict:
    first, last = windows[0], windows[-1]
    losses = [p.full_valid_loss for p in curve if p.full_valid_loss is not None]
    message = f"The training loss went from {first.loss:.3g} to {last.loss:.3g}"
    if len(losses) > 1:
        message += f", the validation loss from {losses[0]:.3g} to {losses[-1]:.3g}"
    elif losses:
        message += f"; the validation loss is {losses[0]:.3g}"
    return Verdict(VerdictKind.LEARNED, last.last_step, f"{message}.")


def _mean(points: Sequence[StepPoint]) -> float:
    return sum(point.train_loss for point in points) / len(points)
