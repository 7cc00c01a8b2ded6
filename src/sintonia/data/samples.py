"""Rows encoded once and kept: flat arrays on disk, memory-mapped, found again by content.

The cache's name is a hash of the data, the tokenizer with the template, and the rules of
encoding, so a stale cache cannot be found. A cache folder is sealed; a torn one is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sintonia.data.forest import EncodedSequence, IntArray, count_tokens
from sintonia.data.renderer import Renderer
from sintonia.data.validate import is_same_when_cut, iter_examples
from sintonia.domain.examples import Example, PreferenceExample
from sintonia.errors import DamagedCheckpoint, InvalidData
from sintonia.sealed import hash_file, seal, verify

_VERSION = 2
_LOCK_POLL_SECONDS = 0.2
_TOKENS = "tokens.bin"
_ARRAYS = ("tokens", "starts", "prompts", "weights", "rows", "row_tokens")


Told = Callable[[int], None]
"""Called with how many rows are encoded: after each row, and with 0 while another process holds
the cache."""


@dataclass(frozen=True)
class EncodingRules:
    """What of a row becomes tokens."""

    context_tokens: int
    truncate: bool


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
        self._first = np.searchsorted(self._rows, np.arange(len(self.row_tokens_R) + 1))

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_tokens_R)

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self._prompts)

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

    Raises ``InvalidData`` naming the row that does not fit the context or the template.
    """
    rendering = (renderer.template_sha256, renderer.learns_last_only)
    parts = (_VERSION, sha256, *rendering, rules.context_tokens, rules.truncate)
    folder = cache / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock", told):
        try:
            verify(folder)
        except DamagedCheckpoint:
            shutil.rmtree(folder, ignore_errors=True)
            if hash_file(path) != sha256:
                raise InvalidData(
                    f"{path.name} changed since it was checked. Check and plan again."
                ) from None
            with _work_folder(folder) as work:
                _encode_file(path, renderer, rules, work, told)
                seal(work, folder)
        return Samples(folder)


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
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)  # a full disk needs the room
        raise


def _encode_file(
    path: Path, renderer: Renderer, rules: EncodingRules, work: Path, told: Told
) -> None:
    with (work / _TOKENS).open("wb") as tokens:
        columns = _Columns(tokens)
        for number, example in iter_examples(path):
            columns.add_row(encode(number, example, renderer, rules))
            told(number)
    columns.write(work)


def encode(
    number: int, example: Example, renderer: Renderer, rules: EncodingRules
) -> list[EncodedSequence]:
    """Return the sequences of one example; ``number`` counts from 1 and is for messages.

    Raises ``InvalidData`` for one that is longer than the context, unless it is to be cut and
    something learned is left: a turn that lies past the context whole is left out.
    """
    sequences, encoded = renderer.sequences(example), []
    is_cut_pair = rules.truncate and isinstance(example, PreferenceExample)
    if is_cut_pair and is_same_when_cut(sequences, rules.context_tokens):
        raise InvalidData(
            f"Example {number} has answers that are the same within the {rules.context_tokens} "
            "tokens that the model reads. Shorten its input."
        )
    for sequence in sequences:
        if len(sequence) > rules.context_tokens and not rules.truncate:
            raise InvalidData(
                f"Example {number} has {len(sequence)} tokens; the model reads at most "
                f"{rules.context_tokens}. Shorten it, or set `truncate`."
            )
        if len(sequence.prompt_ids) >= rules.context_tokens:
            continue
        tokens = np.array([*sequence.prompt_ids, *sequence.answer_ids], dtype=np.int32)
        tokens = tokens[: rules.context_tokens]
        weight = sequence.weight
        encoded.append(EncodedSequence(tokens, len(sequence.prompt_ids), weight, number - 1))
    if not encoded:
        raise InvalidData(
            f"Example {number}: everything that is learned lies past the "
            f"{rules.context_tokens} tokens that the model reads. Shorten its prompt."
        )
    return encoded


class _Columns:
    """Grows the arrays row by row; the tokens go straight to disk."""

    def __init__(self, tokens: BinaryIO) -> None:
        self._file = tokens
        self._starts = array("q", [0])
        self._prompts = array("q")
        self._weights = array("f")
        self._rows = array("q")
        self._row_tokens = array("q")

    def add_row(self, sequences: list[EncodedSequence]) -> None:
        for sequence in sequences:
            self._file.write(sequence.tokens.tobytes())
            self._starts.append(self._starts[-1] + len(sequence.tokens))
            self._prompts.append(sequence.num_prompt_tokens)
            self._weights.append(sequence.weight)
            self._rows.append(len(self._row_tokens))
        self._row_tokens.append(count_tokens(sequences))

    def write(self, folder: Path) -> None:
        """Write the arrays; the file of tokens has been closed."""
        save_array(folder / "tokens.npy", np.memmap(folder / _TOKENS, dtype=np.int32, mode="r"))
        (folder / _TOKENS).unlink()
        save_array(folder / "starts.npy", np.array(self._starts, np.int64))
        save_array(folder / "prompts.npy", np.array(self._prompts, np.int64))
        save_array(folder / "weights.npy", np.array(self._weights, np.float32))
        save_array(folder / "rows.npy", np.array(self._rows, np.int64))
        save_array(folder / "row_tokens.npy", np.array(self._row_tokens, np.int64))


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write what ``np.save`` does, but keep the number of an error: it tells a full disk."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)
