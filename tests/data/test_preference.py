"""Preference rows from the line of a file to two sequences that share their prompt."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.forest import build_forest, count_tokens, pack_rows
from sintonia.data.problems import ProblemLog
from sintonia.data.reader import JsonlReader
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, load_samples
from sintonia.data.validate import RowParser, validate
from sintonia.domain.examples import Message, PreferenceExample, ToolCall
from sintonia.errors import InvalidData
from sintonia.sealed import hash_file

RULES = EncodingRules(context_tokens=512, truncate=False)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def pair(question="Where is it?", good="On its way.", bad="No idea.", **given):
    return {
        "input": {"messages": [{"role": "user", "content": question}], **given},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": bad}],
    }


@pytest.fixture(scope="module")
def renderer(tiny_home) -> Renderer:
    base = Library(tiny_home, catalog.load()).find("tiny")
    assert base is not None
    return Renderer.from_folder(Path(base.ref.folder))


@pytest.fixture
def file(tmp_path):
    def write(*rows) -> Path:
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def problems_of(file, row):
    """The problems of one row, as text and field."""
    problems = ProblemLog()
    parser = RowParser(problems)
    with file(row).open("rb") as lines:
        found = [parser.parse(read) for read in JsonlReader(lines, problems)]
    assert (found == [None]) == bool(problems.kept)
    return [(problem.message, problem.field) for problem in problems.kept]


def changed(place, value):
    """A good pair with the value at a path changed, or taken out when it is None."""
    row = copy.deepcopy(pair())
    *path, last = place
    inner = row
    for key in path:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return row


def test_a_pair_is_read_with_its_tools_and_calls(file):
    row = pair(tools=[TOOL], parallel_tool_calls=False)
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    row["preferred_output"] = [{"role": "assistant", "tool_calls": [call]}]
    problems = ProblemLog()
    with file(row).open("rb") as lines:
        (read,) = JsonlReader(lines, problems)
    assert RowParser(problems).parse(read) == PreferenceExample(
        messages=(Message("user", "Where is it?"),),
        preferred=Message("assistant", tool_calls=(ToolCall("c", "look_up", "{}"),)),
        non_preferred=Message("assistant", "No idea."),
        tools=(TOOL,),
    )


@pytest.mark.parametrize(
    ("place", "value", "text", "field"),
    [
        (["input"], None, " is missing key 'input'.", "input"),
        (["preferred_output"], None, " is missing key 'preferred_output'.", "preferred_output"),
        (["weight"], 1, ' contains an extra "weight".', "weight"),
        (["input"], "Hi", " has input of type string; it must be an object", "input"),
        (["input", "messages"], None, ", input is missing key 'messages'.", "input.messages"),
        (["input", "messages"], [], ", input has no messages", "input.messages"),
        (["input", "functions"], [], ', input contains an extra "functions".', "input.functions"),
        (
            ["input", "parallel_tool_calls"],
            1,
            ", input has parallel_tool_calls of type number",
            "input.parallel_tool_calls",
        ),
        (["input", "tools"], {}, ", input has tools of type object", "input.tools"),
        (
            ["input", "messages", 0, "role"],
            "bot",
            ', message 1 of input has role "bot"; allowed roles are',
            "input.messages[0].role",
        ),
        (
            ["input", "messages", 0, "content"],
            None,
            ", message 1 of input is missing key content.",
            "input.messages[0].content",
        ),
        (
            ["input", "messages", 0, "role"],
            "assistant",
            ", message 1 of input is from the assistant; the input must end with what",
            "input.messages[0].role",
        ),
        (
            ["preferred_output"],
            {"role": "assistant", "content": "x"},
            " has preferred_output of type object; it must be an array of one assistant message",
            "preferred_output",
        ),
        (
            ["non_preferred_output"],
            [],
            " has 0 messages in non_preferred_output; it must hold one, from the assistant.",
            "non_preferred_output",
        ),
        (
            ["preferred_output"],
            [{"role": "assistant", "content": "x"}] * 2,
            " has 2 messages in preferred_output; it must hold one, from the assistant.",
            "preferred_output",
        ),
        (
            ["non_preferred_output", 0, "role"],
            "user",
            ', message 1 of non_preferred_output has role "user"; an output must be',
            "non_preferred_output[0].role",
        ),
        (
            ["preferred_output", 0, "weight"],
            1,
            ', message 1 of preferred_output contains an extra "weight".',
            "preferred_output[0].weight",
        ),
        (
            ["preferred_output", 0, "content"],
            "",
            ", message 1 of preferred_output has empty content",
            "preferred_output[0].content",
        ),
        (
            ["preferred_output", 0, "content"],
            "No idea.",
            " has the same answer as preferred_output and as non_preferred_output",
            "non_preferred_output",
        ),
    ],
)
def test_each_problem_is_told_with_its_place(file, place, value, text, field):
    ((message, found),) = problems_of(file, changed(place, value))
    assert message.startswith(f"Example 1{text}")
    assert found == field


def test_all_problems_of_a_row_are_told_at_once(file):
    row = pair()
    row["input"]["messages"][0]["role"] = "bot"
    row["preferred_output"] = []
    row["non_preferred_output"][0]["content"] = 7
    assert len(problems_of(file, row)) == 3


def test_calls_that_differ_in_their_ids_only_are_the_same_answer(file):
    def calling(call_id):
        function = {"name": "look_up", "arguments": "{}"}
        call = {"id": call_id, "type": "function", "function": function}
        return [{"role": "assistant", "tool_calls": [call]}]

    row = pair(tools=[TOOL])
    row |= {"preferred_output": calling("a"), "non_preferred_output": calling("b")}
    ((message, _),) = problems_of(file, row)
    assert "has the same answer" in message


def test_a_pair_becomes_two_sequences_after_one_prompt(renderer):
    messages = (Message("system", "Be brief."), Message("user", "Hi"))
    example = PreferenceExample(
        messages, Message("assistant", "Hello."), Message("assistant", "What?")
    )
    preferred, other = renderer.sequences(example)
    assert preferred.prompt_ids == other.prompt_ids == tuple(renderer.chat_prompt(messages))
    assert renderer.decode(preferred.answer_ids) == "Hello."
    assert renderer.decode(other.answer_ids) == "What?"
    assert preferred.answer_ids[-1] == other.answer_ids[-1] == renderer.stop_token_ids[0]


def test_what_a_renderer_refuses_is_placed_in_the_row(renderer, file):
    rows = [pair(f"{n}?") for n in range(10)]
    rows[3]["non_preferred_output"][0]["content"] = "a<|im_end|>b"
    rows[5]["input"]["messages"][0]["content"] = "a<|im_end|>b"
    report = validate(file(*rows), renderer=renderer)
    assert [(p.line, p.message_number, p.field) for p in report.problems] == [
        (4, 1, "non_preferred_output[0]"),
        (6, 1, "input.messages[0]"),
    ]
    first, second = (problem.message for problem in report.problems)
    assert first.startswith("Example 4, message 1 of non_preferred_output contains an invalid")
    assert second.startswith("Example 6, message 1 of input contains an invalid token")


def test_a_pair_that_is_too_long_is_refused_and_so_is_one_that_cutting_makes_equal(renderer, file):
    rows = [pair(f"{n}?") for n in range(10)]
    rows[2] = pair("ok?", "same" * 200 + "a", "same" * 200 + "b")
    path = file(*rows)
    (problem,) = validate(path, renderer=renderer).problems
    assert "has 8" in problem.message
    assert "tokens; the model reads at most 512" in problem.message
    (cut,) = validate(path, renderer=renderer, truncate=True).problems
    assert cut.message.startswith("Example 3 has answers that are the same within the 512 tokens")
    rules = EncodingRules(context_tokens=512, truncate=True)
    with pytest.raises(InvalidData, match="Example 3 has answers that are the same"):
        load_samples(path, hash_file(path), renderer, rules, path.parent / "cache")


def test_pairs_keep_their_order_and_their_references_in_the_cache(renderer, file, tmp_path):
    path = file(*(pair(f"{n}?", f"yes {n}", f"no {n}" * n) for n in range(1, 7)))
    samples = load_samples(path, hash_file(path), renderer, RULES, tmp_path / "cache")
    assert (samples.num_rows, samples.num_sequences) == (6, 12)
    known = samples.with_references(np.arange(12) / 4)
    sequences = known.sequences_of([4, 1])
    assert [(s.row, s.place, s.reference) for s in sequences] == [
        (4, 0, 2.0),
        (4, 1, 2.25),
        (1, 0, 0.5),
        (1, 1, 0.75),
    ]
    assert samples.number_of(4, 1) == 9
    assert [s.reference for s in samples.sequences_of([4])] == [0.0, 0.0]
    forest = build_forest(sequences)
    assert forest.rows_S.tolist() == [4, 4, 1, 1]
    assert forest.places_S.tolist() == [0, 1, 0, 1]
    assert forest.references_S.tolist() == [2.0, 2.25, 0.5, 0.75]


@pytest.mark.parametrize("max_tokens", [1, 60, 120, 10_000])
def test_packing_keeps_pairs_together_and_within_the_limit(renderer, file, tmp_path, max_tokens):
    path = file(*(pair(f"{n % 3}?", f"yes {n}", f"no {n}" * n) for n in range(1, 13)))
    samples = load_samples(path, hash_file(path), renderer, RULES, tmp_path / "cache")
    sequences = samples.sequences_of(range(12))
    forests = list(pack_rows(sequences, max_tokens))
    assert sorted(row for forest in forests for row in forest.rows_S) == sorted([*range(12)] * 2)
    for forest in forests:
        rows = forest.rows_S.tolist()
        assert all(rows.count(row) == 2 for row in rows)
        assert forest.num_tokens <= max_tokens or len(rows) == 2
    if max_tokens == 10_000:
        assert len(forests) == 1
        assert forests[0].num_tokens == count_tokens(sequences)
