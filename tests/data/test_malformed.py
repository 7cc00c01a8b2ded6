"""A thousand broken files, made by a seeded mutator: each gets a report, none an exception."""

from __future__ import annotations

import random

import pytest

from malformed import FILE_MUTATORS, LINE_MUTATORS, good_rows, lines_of, made
from sintonia.data.validate import iter_examples, validate
from sintonia.errors import InvalidData

FILES_PER_MUTATOR = 32


def check(path, name, content):
    """Return the report on a malformed file, after checking what each must promise."""
    path.write_bytes(content)
    report = validate(path)
    assert report.num_problems > 0, name
    assert report.size_bytes == len(content), name
    for problem in report.problems:
        assert problem.message, name
        problem.message.encode()
        (problem.field or "").encode()
        assert len(problem.message) < 1_000, name
        assert problem.line is None or 1 <= problem.line <= content.count(b"\n") + 1, name
    return report


@pytest.mark.parametrize("name", LINE_MUTATORS)
def test_a_spoiled_line_is_named(tmp_path, name):
    path = tmp_path / "bad.jsonl"
    for label, (content, line) in made({name: LINE_MUTATORS[name]}, FILES_PER_MUTATOR):
        report = check(path, label, content)
        assert report.problems[0].line == line, label
        with pytest.raises(InvalidData):
            list(iter_examples(path))


@pytest.mark.parametrize("name", FILE_MUTATORS)
def test_a_spoiled_file_gets_a_report(tmp_path, name):
    path = tmp_path / "bad.jsonl"
    for label, content in made({name: FILE_MUTATORS[name]}, FILES_PER_MUTATOR):
        check(path, label, content)


def test_the_files_that_are_spoiled_were_good(tmp_path):
    path = tmp_path / "good.jsonl"
    for seed in range(10):
        path.write_bytes(b"\n".join(lines_of(good_rows(random.Random(seed)))))
        assert validate(path).is_valid


def test_there_are_about_a_thousand_files():
    assert FILES_PER_MUTATOR * (len(LINE_MUTATORS) + len(FILE_MUTATORS)) >= 990
