"""The check of a data file: every problem with its place, and what the file holds.

A file is streamed once and in bounded memory. ``iter_examples`` reads a file that passed the
check by the same rules, so what was checked is what is trained on.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sintonia.data import formats
from sintonia.data.formats import detect_format
from sintonia.data.problems import ProblemLog, RowLog
from sintonia.data.reader import JsonlReader, Row
from sintonia.data.renderer import Renderer, TokenSequence
from sintonia.domain.datasets import MIN_EXAMPLES, DatasetReport, Problem
from sintonia.domain.examples import Example, PreferenceExample
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidData, InvalidRequest, InvalidValue

Progress = Callable[[int, int], None]
"""Told now and then how many bytes of how many have been read."""

UNKNOWN_FORMAT = "Unexpected file format, expected either prompt/completion pairs or chat messages."
_PROGRESS_BYTES = 1024 * 1024
_PROBLEMS_SHOWN = 3
_MAX_FINGERPRINTS = 4_000_000
"""Repeated rows are looked for among this many, 8 bytes each."""
_MESSAGE_PARAM = re.compile(r"(?:(input)\.)?(\w+)\[(\d+)\](?:\.(.+))?")


def validate(
    path: Path | str,
    *,
    renderer: Renderer | None = None,
    truncate: bool = False,
    min_examples: int = MIN_EXAMPLES,
    progress: Progress | None = None,
    called: str = "Training file",
) -> DatasetReport:
    """Check the file at ``path`` and return all that was found; data never raises.

    With a ``renderer`` tokens are counted and each row must fit the model's context, unless
    ``truncate`` says that longer ones will be cut there. ``called`` is what messages call the
    file. Raises ``InvalidValue`` when it cannot be opened.
    """
    path = Path(path)
    problems = ProblemLog()
    check = _Check(RowParser(problems), problems, renderer, truncate)
    with _opened(path) as file:
        reader = JsonlReader(file, problems)
        meter = _Meter(progress, path.stat().st_size)
        for row in reader:
            check.row(row)
            meter.show(reader.size_bytes)
        meter.finish(reader.size_bytes)
    if reader.is_json_lines and reader.num_rows < min_examples:
        text = (
            f"{called} has {reader.num_rows} example(s), "
            f"but must have at least {min_examples} examples"
        )
        problems.add(Problem(text))
    counts = check.counts
    return DatasetReport(
        path=str(path),
        format=check.parser.format_name,
        num_examples=reader.num_rows,
        size_bytes=reader.size_bytes,
        sha256=reader.sha256,
        problems=tuple(problems.kept),
        num_problems=problems.count,
        num_tokens=counts.tokens if renderer else None,
        num_learned_tokens=counts.learned if renderer else None,
        longest_row_tokens=counts.longest if renderer else None,
        warnings=tuple(check.warnings()),
    )


def iter_examples(path: Path | str) -> Iterator[tuple[int, Example]]:
    """Yield each example of a valid file with its number, from 1.

    Raises ``InvalidData`` at the first bad row and ``InvalidValue`` when the file cannot be
    opened.
    """
    path = Path(path)
    problems = ProblemLog()
    parser = RowParser(problems)
    with _opened(path) as file:
        for row in JsonlReader(file, problems):
            example = parser.parse(row)
            _raise_if_any(problems, path)
            assert example is not None, "a row without problems is an example"
            yield row.number, example
    _raise_if_any(problems, path)


def with_method(report: DatasetReport, method: MethodType, name: str) -> DatasetReport:
    """Return ``report`` with one more problem, the first, when its format is of another method.

    ``name`` is what the message calls the file.
    """
    if report.format is None or (needed := formats.method_of(report.format)) is method:
        return report
    text = (
        f"Input file {name} is in the fine-tune-{report.format} format, but the specified "
        f"fine-tuning job is not using '{needed}' as the training method "
        f"(provided method={method})."
    )
    problems = (Problem(text), *report.problems)
    return replace(report, problems=problems, num_problems=report.num_problems + 1)


class RowParser:
    """Turns rows into examples; a file has one format, that of the first row that has one."""

    def __init__(self, problems: ProblemLog) -> None:
        self.format_name: str | None = None
        """``None`` while no row told."""
        self._problems = problems
        self._format: formats.Format | None = None

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


@dataclass
class _Counts:
    """What the rows come to, in tokens."""

    tokens: int = 0
    learned: int = 0
    longest: int = 0
    truncated_rows: int = 0


@dataclass
class _Check:
    """One file's check under way."""

    parser: RowParser
    problems: ProblemLog
    renderer: Renderer | None
    truncate: bool
    counts: _Counts = field(default_factory=_Counts)
    fingerprints: array[int] = field(default_factory=lambda: array("q"))

    def row(self, row: Row) -> None:
        """Check one row."""
        if row.value is not None and len(self.fingerprints) < _MAX_FINGERPRINTS:
            self.fingerprints.append(row.fingerprint)
        example = self.parser.parse(row)
        if example is None or self.renderer is None:
            return
        log = self.problems.row(row.line, row.number)
        try:
            sequences = self.renderer.sequences(example)
        except InvalidRequest as error:
            _add_refusal(error, log)
            return
        limit = self.renderer.context_tokens
        self._measure(sequences, limit, log)
        is_cut_pair = self.truncate and isinstance(example, PreferenceExample)
        if is_cut_pair and is_same_when_cut(sequences, limit):
            log.add(
                f"has answers that are the same within the {limit} tokens that the model reads. "
                "Shorten its input."
            )

    def _measure(self, sequences: list[TokenSequence], limit: int, log: RowLog) -> None:
        """Count the tokens that would be trained on; refuse a row that does not fit."""
        longest = max(map(len, sequences))
        if longest > limit and not self.truncate:
            log.add(
                f"has {longest} tokens; the model reads at most {limit}. "
                "Shorten it, or set `truncate`."
            )
        cut = limit if self.truncate else longest
        learned = sum(
            max(0, min(len(sequence), cut) - len(sequence.prompt_ids)) for sequence in sequences
        )
        if learned == 0:
            log.add(
                f"has nothing to learn within the {limit} tokens that the model reads: its "
                "prompts alone fill them. Shorten it."
            )
        self.counts.truncated_rows += longest > cut
        self.counts.longest = max(self.counts.longest, min(longest, cut))
        self.counts.tokens += sum(min(len(sequence), cut) for sequence in sequences)
        self.counts.learned += learned

    def warnings(self) -> Iterator[str]:
        """Yield what is worth knowing and does not stop a training."""
        repeated = len(self.fingerprints) - len(np.unique(np.frombuffer(self.fingerprints, "q")))
        if repeated:
            yield f"{repeated} example(s) repeat an earlier one word for word."
        if cut := self.counts.truncated_rows:
            yield (
                f"{cut} example(s) are longer than the model reads and will be cut at the end, "
                "so they do not teach it where to stop."
            )


def is_same_when_cut(pair: Sequence[TokenSequence], limit: int) -> bool:
    """Tell whether two sequences are equal in their first ``limit`` tokens."""
    first, second = ((*sequence.prompt_ids, *sequence.answer_ids)[:limit] for sequence in pair)
    return first == second


class _Meter:
    """Tells a listener about progress, once a mebibyte and at the end."""

    def __init__(self, listener: Progress | None, total_bytes: int) -> None:
        self._listener = listener
        self._total_bytes = total_bytes
        self._next_bytes = _PROGRESS_BYTES

    def show(self, done_bytes: int) -> None:
        if self._listener is None or done_bytes < self._next_bytes:
            return
        self._next_bytes = done_bytes + _PROGRESS_BYTES
        self._listener(done_bytes, self._total_bytes)

    def finish(self, done_bytes: int) -> None:
        if self._listener is not None:
            self._listener(done_bytes, done_bytes)


def _add_refusal(error: InvalidRequest, log: RowLog) -> None:
    """Add what a renderer refused, with the place that it names."""
    inside = _MESSAGE_PARAM.fullmatch(error.param or "")
    path = error.param
    if inside and inside[2] != "tools":
        log = log.within(inside[1]) if inside[1] else log
        log, path = log.of_message(int(inside[3]) + 1, inside[2]), inside[4]
    rule = error.message.removeprefix("message ")
    log.add(rule if rule != error.message else f"cannot be rendered: {rule}", path)


def _raise_if_any(problems: ProblemLog, path: Path) -> None:
    if problems.count:
        first = " ".join(problem.message for problem in problems.kept[:_PROBLEMS_SHOWN])
        raise InvalidData(f"File {path.name} cannot be trained on: {first}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidValue(
            f"File {path}: it cannot be read ({error.strerror}). Give the path of a readable file."
        ) from None
    with file:
        yield file


__all__ = ["RowParser", "detect_format", "iter_examples", "validate"]
