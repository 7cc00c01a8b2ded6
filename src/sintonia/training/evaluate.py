"""Loss and token accuracy on validation rows, keeping no logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sintonia.data.forest import Forest
from sintonia.data.samples import Samples
from sintonia.models.policy import Policy
from sintonia.objectives.base import LossOutput, Objective
from sintonia.training.distributed import ALONE, World
from sintonia.training.row_losses import RowSums

ROWS_AT_ONCE = 32


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
        self.rows = RowSums()

    def add(self, forest: Forest, output: LossOutput) -> None:
        """Add one micro-batch; nothing of its graph is kept."""
        self.take(output.measured, output.count, output.sums)
        self.rows.add(forest, output)

    def of_all(self, world: World) -> Totals:
        """Return what all processes added together."""
        if world.is_alone:
            return self
        whole = Totals()
        told = (self.loss, self.count, self._sums, self.rows.told)
        for loss, count, sums, rows in world.gather(told):
            whole.take(loss, count, sums)
            whole.rows.take(rows)
        return whole

    def take(self, loss: float, count: float, sums: Mapping[str, float]) -> None:
        """Add a loss and metrics, as sums over ``count``."""
        self.loss += loss
        self.count += count
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> Measured:
        """Return the means over everything added."""
        metrics = {name: value / self.count for name, value in self._sums.items()}
        return Measured(self.loss / self.count, metrics, self.rows)


@dataclass(frozen=True)
class Evaluation:
    """How rows are measured."""

    policy: Policy
    objective: Objective
    max_tokens: int
    """Of one forest."""
    beat: Callable[[], None]
    """Called after each micro-batch, whose logits are gone by then."""
    world: World = ALONE
    """Its processes share the rows, and each gets the means over all of them."""

    @torch.no_grad()
    def over(self, samples: Samples, rows: Sequence[int]) -> Measured:
        """Return the means over ``rows``."""
        totals = Totals()
        for chunk in _chunks(rows, ROWS_AT_ONCE * self.world.size):
            sequences = self.world.own(samples.sequences_of(chunk))
            for forest in self.objective.batches(sequences, self.max_tokens):
                totals.add(forest, self.objective.loss(self.policy, forest))
                self.beat()
        return totals.of_all(self.world).means()


def _chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
