"""What a check of a data file found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MIN_EXAMPLES = 10
"""OpenAI's smallest training file."""
MAX_PROBLEMS_KEPT = 100
"""Problems beyond these are counted, not kept."""

MAX_PROBLEMS_LISTED = 50
"""So many are told one by one to those who cannot see the report itself."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file."""

    message: str
    """In OpenAI's wording where it has one: ``Example 3, message 2 ...`` (both from 1)."""
    line: int | None = None
    """Line of the file, from 1; ``None`` when the file as a whole is meant."""
    message_number: int | None = None
    """Message of the row, from 1."""
    field: str | None = None
    """The key at fault, like ``messages[1].role``."""

    @property
    def sentence(self) -> str:
        """The message, with the line where the number of the example is another one."""
        is_named = self.line is None or re.search(rf"\b(Example|line) {self.line}\b", self.message)
        return self.message if is_named else f"{self.message} (line {self.line})"


@dataclass(frozen=True)
class DatasetReport:
    """Everything that a check of one file found, and what it holds."""

    path: str
    format: str | None
    """``chat``, ``completion`` or ``preference``; ``None`` when no row told."""
    num_examples: int
    size_bytes: int
    sha256: str
    problems: tuple[Problem, ...] = ()
    num_problems: int = 0
    """All of them, kept or not."""
    num_tokens: int | None = None
    """Tokens of all sequences, prompts included; ``None`` without a renderer."""
    num_learned_tokens: int | None = None
    longest_row_tokens: int | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def is_valid(self) -> bool:
        """Tell whether the file can be trained on."""
        return self.num_problems == 0

    def listing(self, limit: int = MAX_PROBLEMS_LISTED) -> tuple[str, ...]:
        """Return one sentence for each problem up to ``limit``, and one for how many more."""
        shown = tuple(problem.sentence for problem in self.problems[:limit])
        more = self.num_problems - len(shown)
        return (*shown, f"And {more} more problem{'s' if more > 1 else ''}.") if more else shown

    def summary(self, limit: int = 3) -> str:
        """Return the first problems in one sentence each, and how many more there are."""
        shown = " ".join(problem.sentence for problem in self.problems[:limit])
        more = self.num_problems - min(limit, len(self.problems))
        return shown + (f" ({more} more problem{'s' if more > 1 else ''})" if more > 0 else "")
