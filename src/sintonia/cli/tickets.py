"""The demo's task: customer messages to JSON tickets; reading them and scoring answers.

An answer is right when it is JSON and equals the ticket; each field is also scored alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintonia.errors import InvalidValue
from sintonia.evaluation.statistics import Interval, wilson_interval

FOLDERS = {"en": "tickets", "pt": "tickets-pt"}
"""Example folder of each language."""
FILES = ("train.jsonl", "valid.jsonl", "test.jsonl")


@dataclass(frozen=True)
class Question:
    """A held-out row: what is asked and the ticket that would be right."""

    messages: tuple[Mapping[str, str], ...]
    expected: Mapping[str, str]

    @property
    def text(self) -> str:
        """The customer's message."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Score:
    """How many answers, and how many fields of them, were right."""

    right: int
    tickets: int
    right_fields: int
    fields: int

    @property
    def ticket_interval(self) -> Interval:
        """The 95 % interval of the share of right tickets."""
        return wilson_interval(self.right, self.tickets)

    @property
    def field_interval(self) -> Interval:
        """The 95 % interval of the share of right fields, taken as independent."""
        return wilson_interval(self.right_fields, self.fields)


def find_examples(language: str, folder: Path | None) -> Path:
    """Return the folder of the example files. Raises ``InvalidValue`` when it is not there."""
    if folder is not None:
        candidates = [folder]
    else:
        parents = Path(__file__).resolve().parents
        candidates = [parent / "examples" / FOLDERS[language] for parent in parents]
    for candidate in candidates:
        if all((candidate / name).is_file() for name in FILES):
            return candidate
    where = f"Folder {folder}" if folder else "The source tree"
    raise InvalidValue(
        f"{where}: {', '.join(FILES)} are not there. Name a folder that holds them with --data; "
        f"the source tree has one as examples/{FOLDERS[language]}.",
        param="data",
    )


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a test file. Raises ``InvalidValue`` for a row of another kind."""
    rows = path.read_text(encoding="utf-8").splitlines()
    return [_question(path, number, row) for number, row in enumerate(rows, start=1) if row]


def parse_ticket(answer: str) -> Mapping[str, Any] | None:
    """Return the ticket that an answer is, or ``None`` when it is no JSON object."""
    try:
        ticket = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return ticket if isinstance(ticket, dict) else None


def is_right(question: Question, answer: str) -> bool:
    """Tell whether the answer is the whole ticket and nothing else."""
    return parse_ticket(answer) == question.expected


def right_fields(question: Question, answer: str) -> int:
    """Return how many fields of the expected ticket the answer has right."""
    ticket = parse_ticket(answer) or {}
    return sum(ticket.get(name) == value for name, value in question.expected.items())


def score(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """Return the score of one model's answers, in the order of the questions."""
    pairs = list(zip(questions, answers, strict=True))
    return Score(
        right=sum(is_right(question, answer) for question, answer in pairs),
        tickets=len(pairs),
        right_fields=sum(right_fields(question, answer) for question, answer in pairs),
        fields=sum(len(question.expected) for question in questions),
    )


def _question(path: Path, number: int, row: str) -> Question:
    try:
        messages = json.loads(row)["messages"]
        expected = json.loads(messages[-1]["content"])
        return Question(tuple(messages[:-1]), dict(expected))
    except (ValueError, KeyError, TypeError, IndexError):
        raise InvalidValue(
            f"Line {number} of {path.name}: must be a chat whose last message is a JSON ticket."
        ) from None
