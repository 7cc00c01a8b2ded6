"""Early stopping: a pure function of the recorded curve, so that resuming changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sintonia.runs.curve import StepPoint
from sintonia.runs.spec import EarlyStopping


@dataclass(frozen=True)
class Standing:
    """Where the full validations of a run stand."""

    best_step: int
    """Of the lowest loss; of equal ones the first."""
    best_loss: float
    last_step: int
    last_loss: float
    num_stale: int
    """So many of them, the last ones, brought no improvement."""
    is_over: bool
    """Whether patience has run out."""

    @property
    def model_message(self) -> str:
        """Say which checkpoint is the model, and why."""
        if self.best_step == self.last_step:
            return (
                f"The model is the last checkpoint, step {self.last_step}, "
                f"whose validation loss ({self.last_loss:.4g}) was lowest."
            )
        return (
            f"The model is checkpoint step {self.best_step}, whose validation loss "
            f"({self.best_loss:.4g}) was lowest; after step {self.last_step} it was "
            f"{self.last_loss:.4g}."
        )

    @property
    def end_message(self) -> str:
        """Say why training ends before its last epoch."""
        return (
            f"Training ends early at step {self.last_step}: the validation loss has not "
            f"improved in {self.num_stale} epochs."
        )


def standing(curve: Sequence[StepPoint], settings: EarlyStopping) -> Standing | None:
    """Return where the full validations in ``curve`` stand; ``None`` before the first.

    What lowers the loss by ``min_delta`` or less is the best there is, but no improvement.
    """
    measured = [
        (point.step, point.full_valid_loss) for point in curve if point.full_valid_loss is not None
    ]
    if not measured:
        return None
    best_step, best_loss = min(measured, key=lambda pair: pair[1])
    last_step, last_loss = measured[-1]
    num_stale, mark = 0, float("inf")
    for _step, loss in measured:
        is_better = loss < mark - settings.min_delta
        num_stale = 0 if is_better else num_stale + 1
        mark = loss if is_better else mark
    return Standing(
        best_step, best_loss, last_step, last_loss, num_stale, num_stale >= settings.patience
    )
