"""What the policy thought of every answer as the job began, for objectives that compare with it.

Computed once before the first step, with the adapter that training starts from, and sealed in the
run's folder part by part. Every later attempt reads it, so a resumed run compares with the same
numbers, and no second model is kept in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sintonia.data.samples import Samples, save_array
from sintonia.errors import DamagedCheckpoint
from sintonia.models.policy import Policy
from sintonia.objectives.base import Objective, sum_by_sequence
from sintonia.runs.layout import RunFolder
from sintonia.runs.spec import TrainSpec
from sintonia.sealed import seal, verify
from sintonia.training.distributed import ALONE, World
from sintonia.training.evaluate import ROWS_AT_ONCE
from sintonia.training.reporter import Reporter, RowProgress
from sintonia.training.turn import always

_ARRAY = "log_probabilities.npy"
_ROWS_OF_A_PART = 256
"""So many are kept together: what a kill or a stop can cost."""


class Interrupted(Exception):
    """The run was asked to stop before its first step."""


@dataclass(frozen=True)
class Reference:
    """The policy as the job began, and where what it thought is kept."""

    folder: RunFolder
    spec: TrainSpec
    policy: Policy
    """Before anything of this job is learned or restored."""
    objective: Objective
    reporter: Reporter
    should_stop: Callable[[], bool] = lambda: False
    require_turn: Callable[[], None] = always
    """Asked before anything is kept."""
    world: World = ALONE
    """Its processes share the rows; the first keeps what all found."""

    def attach(self, samples: Samples, what: str) -> Samples:
        """Return ``samples`` whose sequences carry their log-probability, if the objective asks.

        ``what`` names the file. Parts that are not there, or damaged, are made. Raises
        ``Interrupted`` between two of them when the run is to stop.
        """
        if not self.objective.needs_reference:
            return samples
        told = RowProgress(self.reporter, f"Scoring {what} answers", samples.num_rows)
        parts = []
        for start in range(0, samples.num_rows, _ROWS_OF_A_PART):
            rows = range(start, min(start + _ROWS_OF_A_PART, samples.num_rows))
            folder = self.folder.references / what / f"rows-{start:09}"
            if self.world.from_first(partial(self._is_sealed, folder)):
                parts.append(np.load(folder / _ARRAY))
                continue
            if any(self.world.any_of(self.should_stop())):
                raise Interrupted
            parts.append(self._score(samples, rows, told))
            if self.world.is_first:
                self._write(folder, parts[-1])
        return samples.with_references(np.concatenate(parts))

    def _is_sealed(self, folder: Path) -> bool:
        try:
            return verify(folder).get("run_id") == self.spec.run_id
        except DamagedCheckpoint:
            return False

    def _write(self, folder: Path, found_S: NDArray[np.float64]) -> None:
        self.require_turn()
        work = folder.with_name(f".{folder.name}.work")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        save_array(work / _ARRAY, found_S)
        seal(work, folder, {"run_id": self.spec.run_id}, may_rename=self.require_turn)

    def _score(
        self, samples: Samples, rows: range, told: Callable[[int], None]
    ) -> NDArray[np.float64]:
        """Return the log-probabilities of the sequences of ``rows``."""
        first = samples.number_of(rows.start, 0)
        found_S = np.full(samples.number_of(rows.stop, 0) - first, np.nan)
        own = list(self._scored(samples, rows, told))
        for pairs in self.world.gather(own):
            for number, log_probability in pairs:
                found_S[number - first] = log_probability
        told(rows.stop)
        return found_S

    @torch.no_grad()
    def _scored(
        self, samples: Samples, rows: range, told: Callable[[int], None]
    ) -> Iterator[tuple[int, float]]:
        """Yield the numbers and log-probabilities of this process's share of the sequences."""
        size = ROWS_AT_ONCE * self.world.size
        for start in rows[::size]:
            chunk = samples.sequences_of(range(start, min(start + size, rows.stop)))
            own = self.world.own(chunk)
            for forest in self.objective.batches(own, self.spec.micro_batch_tokens):
                sums_S = sum_by_sequence(self.policy.score(forest).log_probabilities_N, forest)
                places = zip(forest.rows_S.tolist(), forest.places_S.tolist(), strict=True)
                numbers = [samples.number_of(*place) for place in places]
                yield from zip(numbers, sums_S.tolist(), strict=True)
                told(start)
