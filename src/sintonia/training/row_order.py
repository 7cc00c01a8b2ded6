"""Which rows a step learns: a pure function of seed and step, so resuming replays nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ORDER, _VALIDATION = 1, 2
"""Streams of random numbers, so that changing one use leaves the other alone."""


@dataclass(frozen=True)
class RowOrder:
    """The order of rows over all epochs."""

    num_rows: int
    batch_size: int
    seed: int

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass; the last batch may be smaller."""
        return math.ceil(self.num_rows / self.batch_size)

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 1, that ``step``, from 1, belongs to."""
        return (step - 1) // self.steps_an_epoch + 1

    def ends_epoch(self, step: int) -> bool:
        """Tell whether ``step`` is the last of its epoch."""
        return step % self.steps_an_epoch == 0

    def rows_of(self, step: int) -> list[int]:
        """Return the rows, from 0, of ``step``: each row once in an epoch, in a fresh order."""
        order = _order(self.seed, self.epoch_of(step), self.num_rows)
        start = (step - 1) % self.steps_an_epoch * self.batch_size
        return [int(row) for row in order[start : start + self.batch_size]]


@lru_cache(maxsize=2)  # an epoch's steps ask for the same one
def _order(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(num_rows)


def validation_rows(step: int, num_rows: int, batch_size: int, seed: int) -> list[int]:
    """Return a batch of validation rows for ``step``, drawn without repetition."""
    numbers = np.random.default_rng([seed, _VALIDATION, step])
    return [int(row) for row in numbers.permutation(num_rows)[:batch_size]]
