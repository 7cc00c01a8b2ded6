"""Loss and token accuracy on validation rows, keeping no logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from sintonia.data.forest import Forest
from sintonia.data.samples import Samples
from sintonia.models.policy import Policy
from sintonia.objectives.base import LossOutput, Objective
from sintonia.training.row_losses import RowSums

_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Measured:
    """Means over the learned tokens of some rows."""

    loss: float
    metrics: dict[str, float]
    rows: RowSums
    """The same for each row alone."""

    def named(self, prefix: str) -> dict[str, float]:
        """Return the means under OpenAI's names, such as ``valid_loss``."""
        return {f"{prefix}_loss": self.loss} | {
            f"{prefix}_{name}": value for name, value in self.metrics.items()
        }


class Totals:
    """Adds up losses of micro-batches."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.count = 0.0
        self._sums: dict[str, float] = {}
        self._rows = RowSums()

    def add(self, forest: Forest, output: LossOutput) -> None:
        """Add one micro-batch; nothing of its graph is kept."""
        self.loss += output.measured
        self.count += output.count
        for name, value in output.sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._rows.add(forest, output)

    def means(self) -> Measured:
        """Return the means over everything added."""
        metrics = {name: value / self.count for name, value in self._sums.items()}
        return Measured(self.loss / self.count, metrics, self._rows)


@torch.no_grad()
def evaluate(
    policy: Policy,
    objective: Objective,
    samples: Samples,
    rows: Sequence[int],
    *,
    max_tokens: int,
    beat: Callable[[], None],
) -> Measured:
    """Return the means over ``rows``.

    ``beat`` is called after each micro-batch, whose logits are gone by then.
    """
    totals = Totals()
    for chunk in _chunks(rows):
        for forest in objective.batches(samples.sequences_of(chunk), max_tokens):
            totals.add(forest, objective.loss(policy, forest))
            beat()
    return totals.means()


def _chunks(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]
