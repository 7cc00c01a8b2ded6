"""Rows made of stored answers: they are read back as what was said, and teach that alone."""

from __future__ import annotations

import pytest

from sintonia.data.distill import Flaw, flaw_of, prompt_of, training_row
from sintonia.data.formats import chat
from sintonia.data.problems import ProblemLog

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def choice(reason: str = "stop", **message) -> dict:
    said = {"role": "assistant", "content": "hello", "refusal": None, "annotations": []}
    return {"index": 0, "message": {**said, **message}, "finish_reason": reason, "logprobs": None}


def row_of(request: dict, answer: dict) -> dict:
    """Return the row, which must be one that training takes."""
    row = training_row({"model": "m", **request}, answer)
    assert flaw_of(answer, row) is None
    example = chat.parse(row, (log := ProblemLog()).row(1, 1))
    assert not log.count
    assert [message.is_learned for message in example.messages][-1]
    assert sum(message.is_learned for message in example.messages) == 1
    return row


def test_a_plain_answer_is_a_row_of_the_conversation_and_the_answer():
    row = row_of({"messages": [{"role": "system", "content": "Be kind."}, USER]}, choice())
    assert row == {
        "messages": [
            {"role": "system", "content": "Be kind."},
            USER,
            {"role": "assistant", "content": "hello"},
        ]
    }


def test_only_the_stored_answer_is_learned():
    before = {"role": "assistant", "content": "yes?", "refusal": None, "annotations": []}
    row = row_of({"messages": [USER, before, USER]}, choice())
    assert [message.get("weight") for message in row["messages"]] == [None, 0, None, None]


def test_parts_become_text_and_names_stay():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = row_of({"messages": [{"role": "user", "name": "ann", "content": parts}]}, choice())
    assert row["messages"][0] == {"role": "user", "name": "ann", "content": "ab"}


def test_tools_are_taken_over_and_a_call_is_learned():
    request = {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": False}
    answer = choice("tool_calls", content=None, tool_calls=[{**CALL, "index": 0}])
    row = row_of(request, answer)
    assert row["tools"] == [TOOL]
    assert row["parallel_tool_calls"] is False
    assert row["messages"][-1] == {"role": "assistant", "tool_calls": [CALL]}


def test_a_conversation_with_calls_and_results_goes_along():
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
    row = row_of({"messages": [USER, called, result], "tools": [TOOL]}, choice())
    assert row["messages"][1:3] == [
        {"role": "assistant", "tool_calls": [CALL], "weight": 0},
        result,
    ]


def test_tools_that_the_model_was_not_to_call_are_left_out():
    row = row_of({"messages": [USER], "tools": [TOOL], "tool_choice": "none"}, choice())
    assert "tools" not in row


def test_older_functions_stay_functions():
    function = TOOL["function"]
    answer = choice("function_call", content=None, function_call=CALL["function"])
    row = row_of({"messages": [USER], "functions": [function]}, answer)
    assert row["functions"] == [function]
    assert row["messages"][-1] == {"role": "assistant", "function_call": CALL["function"]}
    plain = {"messages": [USER], "functions": [function], "function_call": "none"}
    assert "functions" not in row_of(plain, choice())


@pytest.mark.parametrize(
    ("answer", "flaw"),
    [
        (choice("length"), Flaw.CUT_OFF),
        (choice(content=""), Flaw.EMPTY),
        (choice(content=None), Flaw.EMPTY),
        (choice("tool_calls", content=None, tool_calls=[]), Flaw.EMPTY),
        (
            choice(
                "tool_calls",
                content=None,
                tool_calls=[{**CALL, "function": {"name": "f", "arguments": "{"}}],
            ),
            Flaw.INVALID,
        ),
    ],
)
def test_what_is_not_to_be_learned_is_told_by_its_reason(answer, flaw):
    assert flaw_of(answer, training_row({"messages": [USER], "tools": [TOOL]}, answer)) is flaw


def test_the_prompt_of_a_row_is_all_but_its_answer():
    request = {"messages": [USER], "tools": [TOOL]}
    prompts = [prompt_of(row_of(request, choice(content=text))) for text in ("a", "b")]
    assert prompts[0] == prompts[1] == {"messages": [USER], "tools": [TOOL]}
