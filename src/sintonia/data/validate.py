"""The check of a data file: every problem with its place, and what the file holds.

A file is streamed once and in bounded memory, a large one by several processes (``data/crew.py``).
``iter_examples`` reads a file that passed the check by the same rules.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sintonia.data import formats
from sintonia.data.checking import Checker, Counts, EncodingRules, Findings, RowParser
from sintonia.data.crew import check_parts, usual_processes
from sintonia.data.formats import detect_format
from sintonia.data.parts import Splitter, open_file
from sintonia.data.problems import ProblemLog
from sintonia.data.reader import JsonlReader
from sintonia.data.renderer import Renderer
from sintonia.domain.datasets import MAX_PROBLEMS_KEPT, MIN_EXAMPLES, DatasetReport, Problem
from sintonia.domain.examples import Example
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidData

Progress = Callable[[int, int], None]
"""Told now and then how many bytes of how many have been read."""
Listener = Callable[[Findings], None]
"""Given what each part of the file holds, in their order."""

_PROBLEMS_SHOWN = 3
_MAX_FINGERPRINTS = 4_000_000
"""Repeated rows are looked for among this many, 8 bytes each."""


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
    rules = EncodingRules(renderer.context_tokens if renderer else 0, truncate)
    report = check_file(Checker(Path(path), renderer, rules), progress=progress)
    return with_min_examples(report, min_examples, called)


def check_file(
    checker: Checker,
    *,
    progress: Progress | None = None,
    listener: Listener | None = None,
    processes: int | None = None,
) -> DatasetReport:
    """Check every row of a file; however few there are is no problem.

    ``processes`` is for tests: unless given, the file's size tells how many check it.
    """
    total = _Total(checker)
    with open_file(checker.path) as file:
        size_bytes = checker.path.stat().st_size
        splitter = Splitter(file)
        workers = processes or usual_processes(size_bytes)
        with closing(check_parts(checker, splitter, workers)) as findings:
            for found in findings:
                total.add(found)
                if listener is not None:
                    listener(found)
                if progress is not None:
                    progress(splitter.size_bytes, size_bytes)
        splitter.drain()
    if progress is not None:
        progress(splitter.size_bytes, splitter.size_bytes)
    return total.report(splitter)


def iter_examples(path: Path | str) -> Iterator[tuple[int, Example]]:
    """Yield each example of a valid file with its number, from 1.

    Raises ``InvalidData`` at the first bad row and ``InvalidValue`` when the file cannot be
    opened.
    """
    path = Path(path)
    problems = ProblemLog()
    parser = RowParser(problems)
    with open_file(path) as file:
        for row in JsonlReader(file, problems):
            example = parser.parse(row)
            raise_if_any(problems.kept, path)
            assert example is not None, "a row without problems is an example"
            yield row.number, example
    raise_if_any(problems.kept, path)


def raise_if_any(problems: Sequence[Problem], path: Path) -> None:
    """Raise ``InvalidData`` that tells the first of ``problems``."""
    if problems:
        first = " ".join(problem.message for problem in problems[:_PROBLEMS_SHOWN])
        raise InvalidData(f"File {path.name} cannot be trained on: {first}")


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


def with_min_examples(report: DatasetReport, minimum: int, called: str) -> DatasetReport:
    """Return ``report`` with one more problem, the last, when the file has too few rows.

    ``called`` is what the message calls it. Of a file that is no JSON Lines that says nothing.
    """
    has_no_rows = report.num_examples == 0 and not report.is_valid
    if report.num_examples >= minimum or has_no_rows:
        return report
    text = (
        f"{called} has {report.num_examples} example(s), but must have at least {minimum} examples"
    )
    problems = (*report.problems, Problem(text))[:MAX_PROBLEMS_KEPT]
    return replace(report, problems=problems, num_problems=report.num_problems + 1)


@dataclass
class _Total:
    """What was found in the parts of a file so far."""

    checker: Checker
    problems: ProblemLog = field(default_factory=ProblemLog)
    num_rows: int = 0
    format_name: str | None = None
    counts: Counts = field(default_factory=Counts)
    fingerprints: array[int] = field(default_factory=lambda: array("q"))

    def add(self, found: Findings) -> None:
        """Add what was found in the next part."""
        self.problems.extend(found.problems)
        self.num_rows += found.num_rows
        self.format_name = found.format_name
        self.counts.add(found.counts)
        room = _MAX_FINGERPRINTS - len(self.fingerprints)
        self.fingerprints += found.fingerprints[:room]

    def report(self, splitter: Splitter) -> DatasetReport:
        """Return the report of a file that was read to its end."""
        counts = self.counts if self.checker.renderer else None
        return DatasetReport(
            path=str(self.checker.path),
            format=self.format_name,
            num_examples=self.num_rows,
            size_bytes=splitter.size_bytes,
            sha256=splitter.sha256,
            problems=tuple(self.problems.kept),
            num_problems=self.problems.count,
            num_tokens=counts.tokens if counts else None,
            num_learned_tokens=counts.learned if counts else None,
            longest_row_tokens=counts.longest if counts else None,
            warnings=tuple(self._warnings()),
        )

    def _warnings(self) -> Iterator[str]:
        """Yield what is worth knowing and does not stop a training."""
        values = np.sort(np.frombuffer(self.fingerprints, np.int64))
        repeated = int(np.count_nonzero(values[1:] == values[:-1]))
        if repeated:
            yield f"{repeated} example(s) repeat an earlier one word for word."
        if cut := self.counts.truncated_rows:
            yield (
                f"{cut} example(s) are longer than the model reads and will be cut at the end, "
                "so they do not teach it where to stop."
            )


__all__ = [
    "RowParser",
    "check_file",
    "detect_format",
    "iter_examples",
    "raise_if_any",
    "validate",
    "with_method",
    "with_min_examples",
]
