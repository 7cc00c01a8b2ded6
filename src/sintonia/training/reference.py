"""What the policy thought of every answer as the job began, for objectives that compare with it.

Computed once before the first step, with the adapter that training starts from, and sealed in the
run's folder. Every later attempt reads it, so a resumed run compares with the same numbers, and
no second model is kept in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
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
from sintonia.training.reporter import Reporter, RowProgress

_ARRAY = "log_probabilities.npy"
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Reference:
    """The policy as the job began, and where what it thought is kept."""

    folder: RunFolder
    spec: TrainSpec
    policy: Policy
    """Before anything of this job is learned or restored."""
    objective: Objective
    reporter: Reporter

    def attach(self, samples: Samples, what: str) -> Samples:
        """Return ``samples`` whose sequences carry their log-probability, if the objective asks.

        ``what`` names the file; its array is made when it is not there, or damaged.
        """
        if not self.objective.needs_reference:
            return samples
        folder = self.folder.references / what
        if not self._is_sealed(folder):
            progress = RowProgress(self.reporter, f"Scoring {what} answers", samples.num_rows)
            self._write(folder, self._score(samples, progress))
        return samples.with_references(np.load(folder / _ARRAY, mmap_mode="r"))

    def _is_sealed(self, folder: Path) -> bool:
        try:
            return verify(folder).get("run_id") == self.spec.run_id
        except DamagedCheckpoint:
            return False

    def _write(self, folder: Path, found_S: NDArray[np.float64]) -> None:
        work = folder.with_name(f".{folder.name}.work")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        save_array(work / _ARRAY, found_S)
        seal(work, folder, {"run_id": self.spec.run_id})

    @torch.no_grad()
    def _score(self, samples: Samples, told: Callable[[int], None]) -> NDArray[np.float64]:
        found_S = np.full(samples.num_sequences, np.nan)
        for start in range(0, samples.num_rows, _ROWS_AT_ONCE):
            rows = range(start, min(start + _ROWS_AT_ONCE, samples.num_rows))
            sequences = samples.sequences_of(rows)
            for forest in self.objective.batches(sequences, self.spec.micro_batch_tokens):
                sums_S = sum_by_sequence(self.policy.score(forest).log_probabilities_N, forest)
                places = zip(forest.rows_S, forest.places_S, strict=True)
                found_S[[samples.number_of(*place) for place in places]] = sums_S.cpu().numpy()
                told(start)
            told(rows.stop)
        return found_S
