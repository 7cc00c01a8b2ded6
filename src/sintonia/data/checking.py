"""The check of one part of a data file, and its rows as the model will read them.

Each row is parsed, rendered and encoded once: what is found wrong, what it counts for, and the
arrays that training reads come from the same pass, so what was checked is what is trained on.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sintonia.data import formats
from sintonia.data.forest import EncodedSequence, count_tokens
from sintonia.data.parts import Part, open_part
from sintonia.data.problems import ProblemLog, RowLog
from sintonia.data.reader import JsonlReader, Row
from sintonia.data.renderer import Renderer, TokenSequence
from sintonia.domain.datasets import Problem
from sintonia.domain.examples import Example, PreferenceExample
from sintonia.errors import InvalidRequest

UNKNOWN_FORMAT = "Unexpected file format, expected either prompt/completion pairs or chat messages."


@dataclass(frozen=True)
class EncodingRules:
    """What of a row becomes tokens."""

    context_tokens: int
    truncate: bool


@dataclass
class Counts:
    """What rows come to, in tokens."""

    tokens: int = 0
    learned: int = 0
    longest: int = 0
    truncated_rows: int = 0

    def add(self, other: Counts) -> None:
        """Add what other rows come to."""
        self.tokens += other.tokens
        self.learned += other.learned
        self.longest = max(self.longest, other.longest)
        self.truncated_rows += other.truncated_rows


@dataclass
class Columns:
    """Encoded rows, flat: what is not of ``rows`` has a value for each sequence."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    """Of all sequences, one after the other."""
    lengths: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    weights: array[float] = field(default_factory=lambda: array("f"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    """The row, from 0, that the sequence belongs to."""
    row_tokens: array[int] = field(default_factory=lambda: array("q"))
    """Of each row: its tokens, what its turns share counted once."""
    digests: array[int] = field(default_factory=lambda: array("q"))
    """Of each row: equal where the model would learn the same (64 bits)."""

    def add_row(self, sequences: Sequence[EncodedSequence]) -> None:
        """Add the sequences of one row."""
        digest = hashlib.blake2b(digest_size=8)
        for sequence in sequences:
            content = sequence.tokens.tobytes()
            digest.update(content)
            self.tokens.frombytes(content)
            self.lengths.append(len(sequence.tokens))
            self.prompts.append(sequence.num_prompt_tokens)
            self.weights.append(sequence.weight)
            self.rows.append(sequence.row)
        self.row_tokens.append(count_tokens(sequences))
        self.digests.append(int.from_bytes(digest.digest(), signed=True))


@dataclass
class Findings:
    """What the check of one part found."""

    problems: ProblemLog = field(default_factory=ProblemLog)
    num_rows: int = 0
    """Refused ones too."""
    format_name: str | None = None
    """``None`` while no row told."""
    is_json_lines: bool = True
    counts: Counts = field(default_factory=Counts)
    fingerprints: array[int] = field(default_factory=lambda: array("q"))
    """Of each row that could be parsed: equal for equal lines."""
    columns: Columns = field(default_factory=Columns)
    """Empty without a renderer; without the rows that have problems."""


@dataclass(frozen=True)
class Checker:
    """Checks the parts of one file."""

    path: Path
    renderer: Renderer | None
    """``None``: tokens are not counted and nothing is encoded."""
    rules: EncodingRules

    def check(self, part: Part, format_name: str | None = None) -> Findings:
        """Return what is found in ``part`` of a file whose rows so far were of ``format_name``."""
        found = Findings()
        parser = RowParser(found.problems, format_name)
        with open_part(self.path, part) as file:
            reader = JsonlReader(file, found.problems, part)
            for row in reader:
                self._check_row(row, parser, found)
        found.num_rows = reader.num_rows - part.rows_before
        found.is_json_lines = reader.is_json_lines
        found.format_name = parser.format_name
        return found

    def _check_row(self, row: Row, parser: RowParser, found: Findings) -> None:
        if row.value is not None:
            found.fingerprints.append(row.fingerprint)
        example = parser.parse(row)
        if example is None or self.renderer is None:
            return
        log = found.problems.row(row.line, row.number)
        try:
            sequences = self.renderer.sequences(example)
        except InvalidRequest as error:
            _add_refusal(error, log)
            return
        self._measure(sequences, log, found.counts)
        if self._is_same_when_cut(example, sequences):
            log.add(
                f"has answers that are the same within the {self.rules.context_tokens} tokens "
                "that the model reads. Shorten its input."
            )
        if log.is_clean:
            found.columns.add_row(self._encoded(sequences, row.number - 1))

    def _measure(self, sequences: list[TokenSequence], log: RowLog, counts: Counts) -> None:
        """Count the tokens that would be trained on; refuse a row that does not fit."""
        limit, truncate = self.rules.context_tokens, self.rules.truncate
        longest = max(map(len, sequences))
        if longest > limit and not truncate:
            log.add(
                f"has {longest} tokens; the model reads at most {limit}. "
                "Shorten it, or set `truncate`."
            )
        cut = limit if truncate else longest
        learned = sum(
            max(0, min(len(sequence), cut) - len(sequence.prompt_ids)) for sequence in sequences
        )
        if learned == 0:
            log.add(
                f"has nothing to learn within the {limit} tokens that the model reads: its "
                "prompts alone fill them. Shorten it."
            )
        tokens = sum(min(len(sequence), cut) for sequence in sequences)
        counts.add(Counts(tokens, learned, min(longest, cut), int(longest > cut)))

    def _is_same_when_cut(self, example: Example, pair: Sequence[TokenSequence]) -> bool:
        """Tell whether the two answers of a pair are equal in what the model reads of them."""
        if not self.rules.truncate or not isinstance(example, PreferenceExample):
            return False
        limit = self.rules.context_tokens
        first, second = ((*sequence.prompt_ids, *sequence.answer_ids)[:limit] for sequence in pair)
        return first == second

    def _encoded(self, sequences: Sequence[TokenSequence], row: int) -> list[EncodedSequence]:
        """Return the sequences cut to the context; a turn that lies past it whole is left out."""
        limit = self.rules.context_tokens
        return [
            EncodedSequence(
                _tokens(sequence, limit), len(sequence.prompt_ids), sequence.weight, row
            )
            for sequence in sequences
            if len(sequence.prompt_ids) < limit
        ]


class RowParser:
    """Turns rows into examples; a file has one format, that of the first row that has one."""

    def __init__(self, problems: ProblemLog, format_name: str | None = None) -> None:
        self.format_name = format_name
        """``None`` while no row told."""
        self._problems = problems
        self._format = formats.named(format_name) if format_name else None

    def parse(self, row: Row) -> Example | None:
        """Return the example, or ``None`` when the row has problems, which are in the log."""
        if row.value is None:
            return None
        found = self._format_of(row.value)
        if found is None:
            self._refuse_unknown(row)
            return None
        name = found.NAME
        if self._format is None:
            self._format, self.format_name = found, name
        log = self._problems.row(row.line, row.number)
        if name != self.format_name:
            log.add(
                f"is in the {name} format, but the file begins in the {self.format_name} "
                "format. Use one format per file."
            )
            return None
        return found.parse(row.value, log)

    def _format_of(self, row: Mapping[str, Any]) -> formats.Format | None:
        """Return the row's format: the file's own when it matches, which is quick to tell."""
        if self._format is not None and self._format.matches(row):
            return self._format
        return formats.format_of(row)

    def _refuse_unknown(self, row: Row) -> None:
        place = "" if row.number == 1 else f"Example {row.number}: "
        self._problems.add(Problem(place + UNKNOWN_FORMAT, row.line))


def _tokens(sequence: TokenSequence, limit: int) -> NDArray[np.int32]:
    return np.array((*sequence.prompt_ids, *sequence.answer_ids)[:limit], dtype=np.int32)


_MESSAGE_PARAM = re.compile(r"(?:(input)\.)?(\w+)\[(\d+)\](?:\.(.+))?")


def _add_refusal(error: InvalidRequest, log: RowLog) -> None:
    """Add what a renderer refused, with the place that it names."""
    inside = _MESSAGE_PARAM.fullmatch(error.param or "")
    path = error.param
    if inside and inside[2] != "tools":
        log = log.within(inside[1]) if inside[1] else log
        log, path = log.of_message(int(inside[3]) + 1, inside[2]), inside[4]
    rule = error.message.removeprefix("message ")
    log.add(rule if rule != error.message else f"cannot be rendered: {rule}", path)
