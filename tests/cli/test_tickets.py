"""The demo's scoring, on its own example files and on awkward answers."""

from __future__ import annotations

import pytest

from sintonia.cli.tickets import (
    FOLDERS,
    Question,
    find_examples,
    is_right,
    parse_ticket,
    read_questions,
    right_fields,
    score,
)
from sintonia.errors import InvalidValue

QUESTION = Question(
    ({"role": "user", "content": "My phone broke"},),
    {"intent": "defect", "urgency": "normal", "product": "phone"},
)


@pytest.mark.parametrize(
    ("answer", "whole", "fields"),
    [
        ('{"intent": "defect", "urgency": "normal", "product": "phone"}', True, 3),
        (' {"product":"phone","urgency":"normal","intent":"defect"}\n', True, 3),
        ('{"intent": "defect", "urgency": "high", "product": "phone"}', False, 2),
        ('{"intent": "defect"}', False, 1),
        ('{"intent": "defect", "urgency": "normal", "product": "phone", "x": 1}', False, 3),
        ('Sure! {"intent": "defect", "urgency": "normal", "product": "phone"}', False, 0),
        ("", False, 0),
        ("[]", False, 0),
        ("[" * 100_000, False, 0),
    ],
)
def test_a_ticket_is_right_only_as_a_whole_and_fields_one_by_one(answer, whole, fields):
    assert is_right(QUESTION, answer) is whole
    assert right_fields(QUESTION, answer) == fields


def test_a_score_counts_tickets_and_fields_with_their_intervals():
    right = '{"intent": "defect", "urgency": "normal", "product": "phone"}'
    found = score([QUESTION] * 4, [right, right, right, "no"])

    assert (found.right, found.tickets, found.right_fields, found.fields) == (3, 4, 9, 12)
    assert found.ticket_interval.low < 0.75 < found.ticket_interval.high
    assert found.field_interval.high < found.ticket_interval.high


def test_a_list_is_no_ticket():
    assert parse_ticket("[1]") is None


@pytest.mark.parametrize("language", sorted(FOLDERS))
def test_the_examples_of_every_language_are_found_and_read(language):
    questions = read_questions(find_examples(language, None) / "test.jsonl")

    assert len(questions) == 60
    assert all(set(q.expected) == {"intent", "urgency", "product"} for q in questions)
    assert all(q.messages[-1]["role"] == "user" for q in questions)


def test_a_folder_without_the_files_says_what_is_missing(tmp_path):
    with pytest.raises(InvalidValue, match=r"train.jsonl.*--data"):
        find_examples("en", tmp_path)


def test_a_test_row_of_another_kind_is_named_by_its_line(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('\n{"messages": [{"role": "assistant", "content": "no ticket"}]}\n')

    with pytest.raises(InvalidValue, match=r"Line 2 of test\.jsonl"):
        read_questions(path)
