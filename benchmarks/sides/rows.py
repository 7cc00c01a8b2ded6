"""The rows that the training benchmark is run on, as token ids.

A row longer than the largest length is cut at its end, for all sides alike, as TRL's
``max_length`` would: of a long prompt nothing learned is left then, and such a row is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sides.work import Row
from sintonia.data.renderer import Renderer
from sintonia.data.validate import iter_examples

WORDS = "amber birch cedar delta ember fjord grove heron inlet jetty knoll larch mango north oasis"
DPO_MAX_LENGTH = 1024


@dataclass(frozen=True)
class Wanted:
    """Which rows, and how they are read."""

    path: Path
    method: str
    limit: int
    max_length: int | None
    """``None``: 1024 for preferences, else what the longest row has."""
    unshareable: bool


@dataclass(frozen=True)
class Found:
    """The rows, and what became of the others before them."""

    rows: list[Row]
    max_length: int
    num_cut: int
    num_left_out: int


def read_rows(wanted: Wanted, renderer: Renderer) -> Found:
    """Return the first rows of a file; of a chat with several learned turns the first turn."""
    limit = wanted.max_length or (DPO_MAX_LENGTH if wanted.method == "dpo" else None)
    rows: list[Row] = []
    num_cut = num_left_out = 0
    for row in whole_rows(wanted, renderer):
        kept = cut(row, limit or renderer.context_tokens)
        num_left_out += kept is None
        if kept:
            num_cut += kept != row
            rows.append(kept)
        if len(rows) == wanted.limit:
            break
    longest = max((row.longest for row in rows), default=0)
    return Found(rows, limit or longest, num_cut, num_left_out)


def whole_rows(wanted: Wanted, renderer: Renderer) -> Iterator[Row]:
    """Yield the rows of the file at full length."""
    words, numbers = WORDS.split(), random.Random(0)
    for _, example in iter_examples(wanted.path):
        given: Any = example
        if wanted.unshareable:
            system, *others = given.messages
            content = f"{numbers.choice(words)} {numbers.randrange(10**6)} {system.content}"
            given = replace(given, messages=(replace(system, content=content), *others))
        sequences = renderer.sequences(given)[: 2 if wanted.method == "dpo" else 1]
        answers = [list(sequence.answer_ids) for sequence in sequences]
        yield Row(list(sequences[0].prompt_ids), answers)


def cut(row: Row, max_length: int) -> Row | None:
    """Return the row within ``max_length``; ``None`` where nothing is left to learn."""
    room = max_length - len(row.prompt)
    answers = [answer[: max(room, 0)] for answer in row.answers]
    is_empty = not all(answers) or (len(answers) == 2 and answers[0] == answers[1])
    return None if is_empty else Row(row.prompt, answers)
