"""The loss of each row, so that a user finds the bad ones: when it was first and last seen.

Invariant: a row's losses are part of a checkpoint, so that a resumed run tells what an
uninterrupted one does, and each row once.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from sintonia.data.forest import Forest
from sintonia.data.samples import Samples
from sintonia.objectives.base import LossOutput
from sintonia.sealed import sync_file

TRAINING, VALIDATION = "training", "validation"
STATE_ROWS = "state.rows.safetensors"
COLUMNS = ("file", "row", "tokens", "first_loss", "last_loss")


class RowSums:
    """Adds up the losses of rows over the micro-batches of one step or one validation.

    Flat, 24 bytes for each sequence: a validation may have very many.
    """

    def __init__(self) -> None:
        self._rows = array("q")
        self._totals = array("d")
        self._counts = array("d")

    def add(self, forest: Forest, output: LossOutput) -> None:
        """Add one micro-batch."""
        told = output.by_sequence
        if told is None:
            return
        columns = (forest.rows_S, told.totals_S, told.counts_S)
        self.take(zip(*(column.tolist() for column in columns), strict=True))

    @property
    def told(self) -> list[tuple[int, float, float]]:
        """Return the rows with their sums, for another process."""
        return list(zip(self._rows, self._totals, self._counts, strict=True))

    def take(self, told: Iterable[tuple[int, float, float]]) -> None:
        """Add what another process told."""
        for row, total, count in told:
            self._rows.append(row)
            self._totals.append(total)
            self._counts.append(count)

    def means(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows that learned something, in order, and the loss of each."""
        rows, places = np.unique(np.asarray(self._rows), return_inverse=True)
        totals = np.bincount(places, weights=np.asarray(self._totals), minlength=len(rows))
        counts = np.bincount(places, weights=np.asarray(self._counts), minlength=len(rows))
        learned = counts > 0
        return rows[learned], totals[learned] / counts[learned]


class RowLosses:
    """The losses of the R rows of one file; not a number for rows that were not seen yet."""

    def __init__(self, num_rows: int) -> None:
        self.first_R: NDArray[np.float32] = np.full(num_rows, np.nan, np.float32)
        self.last_R: NDArray[np.float32] = np.full(num_rows, np.nan, np.float32)

    def see(self, sums: RowSums) -> None:
        """Take in what a step or a validation measured."""
        rows, losses = sums.means()
        self.last_R[rows] = losses
        is_new = np.isnan(self.first_R[rows])
        self.first_R[rows[is_new]] = losses[is_new]


def save(losses: Mapping[str, RowLosses], folder: Path) -> None:
    """Write the losses of all files into a checkpoint's folder."""
    tensors = {f"{name}.first": value.first_R for name, value in losses.items()}
    tensors |= {f"{name}.last": value.last_R for name, value in losses.items()}
    save_file(tensors, folder / STATE_ROWS)


def load(losses: Mapping[str, RowLosses], folder: Path) -> None:
    """Put back what :func:`save` wrote."""
    tensors = load_file(folder / STATE_ROWS)
    for name, value in losses.items():
        value.first_R[:] = tensors[f"{name}.first"]
        value.last_R[:] = tensors[f"{name}.last"]


def write_table(checkpoint: Path, samples: Mapping[str, Samples], path: Path) -> None:
    """Write the result file of the rows as they stood at ``checkpoint``.

    Rows count from 1, as in messages about the file; a cell is empty where nothing was measured.
    """
    tensors = load_file(checkpoint / STATE_ROWS)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, rows in samples.items():
            first_R, last_R = tensors[f"{name}.first"], tensors[f"{name}.last"]
            for row in range(rows.num_rows):
                cells = (_cell(first_R[row]), _cell(last_R[row]))
                writer.writerow((name, row + 1, int(rows.row_tokens_R[row]), *cells))
    sync_file(path)


def _cell(loss: np.float32) -> str:
    return "" if np.isnan(loss) else f"{float(loss):.5f}"
