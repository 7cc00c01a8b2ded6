"""Rows encoded once and kept: flat arrays on disk, memory-mapped, found again by content.

The cache's name is a hash of the data, the tokenizer with the template, and the rules of
encoding, so a stale cache cannot be found. A cache folder is sealed; a torn one is made anew. It
also keeps what the check of the file found, so that a file is read once, whoever comes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sintonia.data.checking import Checker, EncodingRules, Findings
from sintonia.data.forest import EncodedSequence, IntArray
from sintonia.data.renderer import Renderer
from sintonia.data.validate import check_file, raise_if_any
from sintonia.domain.datasets import DatasetReport
from sintonia.errors import DamagedCheckpoint, InvalidData
from sintonia.sealed import seal, verify

__all__ = ["EncodingRules", "Samples", "check_samples", "load_samples", "save_array"]

_VERSION = 3
"""To be raised when rows are checked or encoded by other rules, or kept in another form."""
_LOCK_POLL_SECONDS = 0.2
_ARRAYS: Mapping[str, np.dtype[Any]] = {
    "tokens": np.dtype(np.int32),
    "starts": np.dtype(np.int64),
    "prompts": np.dtype(np.int64),
    "weights": np.dtype(np.float32),
    "rows": np.dtype(np.int64),
    "row_tokens": np.dtype(np.int64),
    "digests": np.dtype(np.int64),
}
"""The files of a cache and the type of their values."""

Told = Callable[[int], None]
"""Called with how many rows are encoded: now and then, and with 0 while another process holds
the cache."""


class Samples:
    """The encoded rows of one file, memory-mapped. S sequences, R rows."""

    def __init__(
        self,
        folder: Path,
        references_S: NDArray[np.float64] | None = None,
        *,
        are_apart: bool = False,
    ) -> None:
        self._folder = folder
        self._references_S = references_S
        self._are_apart = are_apart
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        self._tokens: NDArray[np.int32] = arrays["tokens"]
        self._starts: IntArray = arrays["starts"]
        self._prompts: IntArray = arrays["prompts"]
        self._weights: NDArray[np.float32] = arrays["weights"]
        self._rows: IntArray = arrays["rows"]
        self.row_tokens_R: IntArray = arrays["row_tokens"]
        """Tokens of each row, what its turns share counted once."""
        self.digests_R: IntArray = arrays["digests"]
        """Of each row: equal where the model learns the same."""

    @cached_property
    def _first(self) -> IntArray:
        """Where the sequences of each row begin."""
        return np.searchsorted(self._rows, np.arange(len(self.row_tokens_R) + 1))

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_tokens_R)

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self._prompts)

    @property
    def computed_tokens_R(self) -> IntArray:  # noqa: N802
        """Tokens of a forest of each row: those of ``row_tokens_R`` unless sequences are apart."""
        if not self._are_apart:
            return self.row_tokens_R
        return np.diff(self._starts[self._first])

    @property
    def row_of_the_longest_sequence(self) -> int:
        """Return the row of the sequence that has the most tokens."""
        return int(self._rows[np.diff(self._starts).argmax()])

    def with_references(self, references_S: NDArray[np.float64]) -> Samples:
        """Return the same rows, whose sequences know their log-probability as the job began."""
        assert references_S.shape == (self.num_sequences,), "one for each sequence"
        return Samples(self._folder, references_S, are_apart=self._are_apart)

    def apart(self) -> Samples:
        """Return the same rows, whose sequences share no prefix in a forest."""
        return Samples(self._folder, self._references_S, are_apart=True)

    def number_of(self, row: int, place: int) -> int:
        """Return which of the S sequences is the one at ``place`` of ``row``."""
        return int(self._first[row]) + place

    def sequences_of(self, rows: Iterable[int]) -> list[EncodedSequence]:
        """Return the sequences of ``rows`` (from 0), in their order."""
        return [
            self._sequence(number)
            for row in rows
            for number in range(self._first[row], self._first[row + 1])
        ]

    def _sequence(self, number: int) -> EncodedSequence:
        tokens = self._tokens[self._starts[number] : self._starts[number + 1]]
        row = int(self._rows[number])
        return EncodedSequence(
            tokens=np.asarray(tokens),
            num_prompt_tokens=int(self._prompts[number]),
            weight=float(self._weights[number]),
            row=row,
            place=number - int(self._first[row]),
            reference=0.0 if self._references_S is None else float(self._references_S[number]),
            is_apart=self._are_apart,
        )


def load_samples(
    path: Path,
    sha256: str,
    renderer: Renderer,
    rules: EncodingRules,
    cache: Path,
    told: Told = lambda _rows: None,
) -> Samples:
    """Return the encoded rows of ``path``, from the cache when they were encoded before.

    Raises ``InvalidData`` naming the rows that do not fit the context or the template.
    """
    report, samples = check_samples(path, sha256, renderer, rules, cache, told)
    raise_if_any(report.problems, path)
    if samples is None:
        raise InvalidData(f"File {path.name} cannot be trained on: it has no rows.")
    return samples


def check_samples(
    path: Path,
    sha256: str,
    renderer: Renderer,
    rules: EncodingRules,
    cache: Path,
    told: Told = lambda _rows: None,
) -> tuple[DatasetReport, Samples | None]:
    """Check the file at ``path``, and return its encoded rows too when all of them are good.

    A file whose rows are in the cache was checked when they were encoded. Raises ``InvalidData``
    for a file that is not the one with this hash.
    """
    rendering = (renderer.template_sha256, renderer.learns_last_only)
    parts = (_VERSION, sha256, *rendering, rules.context_tokens, rules.truncate)
    folder = cache / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock", told):
        try:
            facts = verify(folder)["report"]
        except DamagedCheckpoint:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return _report_of(facts, path), Samples(folder)
        with _work_folder(folder) as work:
            with _Writer(work, told) as writer:
                report = check_file(Checker(path, renderer, rules), listener=writer.add)
            if report.sha256 != sha256:
                raise InvalidData(
                    f"{path.name} changed since it was checked. Check and plan again."
                )
            if not report.is_valid or report.num_examples == 0:
                return report, None
            seal(work, folder, {"report": _facts_of(report)})
        return report, Samples(folder)


def _facts_of(report: DatasetReport) -> dict[str, Any]:
    """Return what is kept of the report of a good file."""
    facts = asdict(report)
    return {name: facts[name] for name in facts if name not in {"path", "problems"}}


def _report_of(facts: Mapping[str, Any], path: Path) -> DatasetReport:
    return DatasetReport(**{**facts, "path": str(path), "warnings": tuple(facts["warnings"])})


@contextmanager
def _locked(path: Path, told: Told) -> Iterator[None]:
    """Hold the lock of one cache, waiting for another trainer that encodes it now."""
    with path.open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                told(0)
                time.sleep(_LOCK_POLL_SECONDS)
        yield


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for ``folder``'s content; what killed trainers left there goes."""
    for torn in folder.parent.glob(f"{folder.name}.*.work"):
        shutil.rmtree(torn, ignore_errors=True)
    work = folder.with_name(f"{folder.name}.{os.getpid()}.work")
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)  # unless it was sealed; a full disk needs the room


class _Writer:
    """Writes the arrays of a cache part by part; memory does not grow with the file."""

    def __init__(self, folder: Path, told: Told) -> None:
        self._told = told
        self._num_rows = self._num_tokens = 0
        self._has_problems = False
        with ExitStack() as stack:
            self._files = {
                name: stack.enter_context(_ArrayFile(folder / f"{name}.npy", kind))
                for name, kind in _ARRAYS.items()
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        self._files["starts"].append(np.zeros(1, np.int64))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, found: Findings) -> None:
        """Append the rows of one part; once a row has problems, no row is kept any more."""
        self._num_rows += found.num_rows
        self._told(self._num_rows)
        self._has_problems = self._has_problems or found.problems.count > 0
        if self._has_problems:
            return
        columns = found.columns
        ends = self._num_tokens + np.cumsum(np.frombuffer(columns.lengths, np.int64))
        self._num_tokens += len(columns.tokens)
        self._files["starts"].append(ends)
        for name in _ARRAYS:
            if name != "starts":
                self._files[name].append(getattr(columns, name))


class _ArrayFile:
    """What ``np.save`` writes of one dimension, but growing; its length is written at the end.

    Not through ``np.save`` for another reason too: it loses the number of an error, which tells
    a full disk.
    """

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self._file = path.open("wb")
        self._kind = kind
        self._length = 0
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._file.seek(0)
                self._write_header()

    def append(self, values: array[Any] | NDArray[Any]) -> None:
        """Append values that are of the file's kind already."""
        self._file.write(np.asarray(values).data)
        self._length += len(values)

    def _write_header(self) -> None:
        """Write the header; numpy pads it so that it keeps its size whatever the length."""
        facts = {"descr": self._kind.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, facts)


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write what ``np.save`` does, but keep the number of an error: it tells a full disk."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)
