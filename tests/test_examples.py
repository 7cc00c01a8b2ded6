"""The example data keeps what its README promises."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from sintonia.data.validate import validate

EXAMPLES = Path(__file__).parents[1] / "examples"
SETS = ("tickets", "tickets-pt")
LABELS = {
    "intent": {"refund", "delivery", "defect", "billing", "cancel", "howto"},
    "urgency": {"low", "normal", "high"},
    "product": {"laptop", "phone", "headphones", "printer", "router"},
}


def rows(name: str, part: str) -> list[list[dict[str, str]]]:
    lines = (EXAMPLES / name / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def trigrams(messages) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", messages[1]["content"].lower())
    return set(zip(words, words[1:], words[2:], strict=False))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("part", "count"), [("train", 160), ("valid", 40), ("test", 60)])
def test_each_file_is_valid_and_has_its_rows(name, part, count):
    report = validate(EXAMPLES / name / f"{part}.jsonl")
    assert report.is_valid, report.problems
    assert report.num_examples == count


@pytest.mark.parametrize("name", SETS)
def test_answers_are_tickets_of_known_labels_and_none_is_common(name):
    for part in ("train", "valid", "test"):
        answers = [messages[2]["content"] for messages in rows(name, part)]
        for answer in answers:
            ticket = json.loads(answer)
            assert list(ticket) == list(LABELS)
            assert all(ticket[key] in LABELS[key] for key in LABELS)
        assert Counter(answers).most_common(1)[0][1] / len(answers) < 0.15


@pytest.mark.parametrize("name", SETS)
def test_no_test_row_shares_much_with_a_training_row(name):
    training = [trigrams(messages) for messages in rows(name, "train")]
    for messages in rows(name, "test"):
        mine = trigrams(messages)
        worst = max(len(mine & other) for other in training) / max(1, len(mine))
        assert worst <= 0.30, messages[1]["content"]


@pytest.mark.parametrize("name", SETS)
def test_no_message_comes_twice(name):
    texts = [m[1]["content"] for part in ("train", "valid", "test") for m in rows(name, part)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(("part", "count"), [("train", 60), ("valid", 20)])
def test_the_preferences_are_valid_pairs_and_no_text_comes_twice(part, count):
    report = validate(EXAMPLES / "replies" / f"{part}.jsonl")
    assert report.is_valid, report.problems
    assert (report.format, report.num_examples, report.warnings) == ("preference", count, ())


def test_no_question_or_answer_of_the_preferences_comes_twice():
    texts = []
    for part in ("train", "valid"):
        for line in (EXAMPLES / "replies" / f"{part}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            texts.append(row["input"]["messages"][1]["content"])
            texts += [
                row[key][0]["content"] for key in ("preferred_output", "non_preferred_output")
            ]
    assert len(set(texts)) == len(texts) == 3 * 80
