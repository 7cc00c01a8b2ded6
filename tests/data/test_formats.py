from __future__ import annotations

import pytest

from sintonia.data import formats
from sintonia.data.problems import ProblemLog
from sintonia.domain.examples import ChatExample, CompletionExample, Message, ToolCall

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def call(call_id="c1", name="look", arguments='{"a": 1}'):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def parsed(row):
    log = ProblemLog()
    known = formats.format_of(row)
    assert known is not None
    return known.parse(row, log.row(7, 3)), log.kept


def example_of(row):
    example, problems = parsed(row)
    assert problems == []
    return example


def messages_of(*messages, **rest):
    return example_of({"messages": list(messages), **rest}).messages


def problems_of(row):
    example, problems = parsed(row)
    assert example is None
    assert problems
    return [problem.message for problem in problems]


def problem_of(row):
    """Return the text of a row's only problem, without its place."""
    (message,) = problems_of(row)
    assert message.startswith("Example 3")
    return message.removeprefix("Example 3")


def problem_in(*messages, **rest):
    return problem_of({"messages": list(messages), **rest})


# --- which format -----------------------------------------------------------------------------


def test_the_folder_is_the_registry_and_private_modules_are_not_in_it():
    assert [known.NAME for known in formats.all_formats()] == ["chat", "completion", "preference"]


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([{"messages": []}], "chat"),
        ([{"prompt": "a", "completion": "b"}], "completion"),
        ([{"completion": "b"}], "completion"),
        ([{"text": "a"}, {"messages": []}], "chat"),
        ([{"input": {"messages": []}}], "preference"),
        ([{"preferred_output": []}], "preference"),
        ([{"input": "a", "output": "b"}], None),
        ([{"text": "a"}], None),
        ([], None),
    ],
)
def test_the_first_row_that_has_a_format_tells_the_file_s(rows, name):
    assert formats.detect_format(rows) == name


def test_each_format_names_the_method_that_learns_from_it():
    methods = {known.NAME: formats.method_of(known.NAME) for known in formats.all_formats()}
    assert methods == {"chat": "supervised", "completion": "supervised", "preference": "dpo"}


# --- completion -------------------------------------------------------------------------------


def test_a_pair_is_read_and_its_prompt_may_be_empty():
    row = {"prompt": "", "completion": " b"}
    assert example_of(row) == CompletionExample(prompt="", completion=" b")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a"}, " is missing key 'completion'."),
        ({"completion": "a"}, " is missing key 'prompt'."),
        (
            {"prompt": "a", "completion": ""},
            " has an empty completion; there is nothing to learn from it.",
        ),
        ({"prompt": 1, "completion": "b"}, " has prompt of type number; it must be a string."),
        (
            {"prompt": "a", "completion": None},
            " has completion of type null; it must be a string.",
        ),
        ({"prompt": "a", "completion": "b", "id": 7}, ' contains an extra "id".'),
    ],
)
def test_a_bad_pair_is_refused(row, problem):
    assert problem_of(row) == problem


def test_all_problems_of_a_pair_are_found_with_their_fields():
    _, problems = parsed({"prompt": [], "x": 1, "y": 2})
    assert [(problem.line, problem.field) for problem in problems] == [
        (7, "x"),
        (7, "y"),
        (7, "prompt"),
        (7, "completion"),
    ]


# --- chat: what is read -----------------------------------------------------------------------


def test_every_role_is_read():
    found = messages_of(
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": "be kind", "name": "ops"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call()]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ANSWER,
        tools=[TOOL],
        parallel_tool_calls=False,
    )
    assert found == (
        Message("system", "be brief"),
        Message("developer", "be kind", name="ops"),
        Message("user", "hi"),
        Message("assistant", tool_calls=(ToolCall("c1", "look", '{"a": 1}'),)),
        Message("tool", "42", tool_call_id="c1"),
        Message("assistant", "hello"),
    )


def test_tools_are_kept_as_they_are():
    assert example_of({"messages": [USER, ANSWER], "tools": [TOOL]}) == ChatExample(
        (Message("user", "hi"), Message("assistant", "hello")), (TOOL,)
    )


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    found = messages_of(
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    )
    assert [message.content for message in found] == ["one two", "no"]


def test_a_refusal_is_what_the_assistant_said():
    answer = {"role": "assistant", "content": None, "refusal": "I cannot."}
    assert messages_of(USER, answer)[1].content == "I cannot."


@pytest.mark.parametrize(("weight", "learned"), [(0, False), (1, True), (None, True)])
def test_weight_says_whether_a_message_is_learned(weight, learned):
    found = messages_of(USER, {**ANSWER, "weight": weight}, USER, ANSWER)
    assert found[1].is_learned is learned


def test_null_stands_for_absent_as_in_exports_of_api_answers():
    absent = dict.fromkeys(["refusal", "tool_calls", "function_call", "audio", "name", "weight"])
    row = {"messages": [USER, {**ANSWER, **absent}], "tools": None, "parallel_tool_calls": None}
    assert example_of(row) == example_of({"messages": [USER, ANSWER]})


def test_deprecated_functions_become_tools_and_calls():
    found = example_of(
        {
            "messages": [
                USER,
                {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}},
                {"role": "function", "name": "look", "content": "42"},
                ANSWER,
            ],
            "functions": [TOOL["function"]],
        }
    )
    assert isinstance(found, ChatExample)
    assert found.tools == (TOOL,)
    made = found.messages[1].tool_calls[0]
    assert (made.name, made.arguments) == ("look", "{}")
    assert found.messages[2] == Message("tool", "42", tool_call_id=made.id)


# --- chat: what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], " has no messages; it needs at least one, from the assistant."),
        ("hi", " has messages of type string; it must be an array of messages."),
        ([USER, {"content": "x"}], ", message 2 Discriminator 'role' is missing in value"),
        (
            [{"role": "bot", "content": "x"}, ANSWER],
            (
                ', message 1 has role "bot"; '
                "allowed roles are system, developer, user, assistant, tool."
            ),
        ),
        ([{"role": ["user"], "content": "x"}, ANSWER], None),
        (
            ["x", ANSWER],
            ", message 1 is of type string; it must be an object with role and content.",
        ),
        ([{"role": "user"}, ANSWER], ", message 1 is missing key content."),
        ([USER, {"role": "assistant"}], ", message 2 is missing key content."),
        ([USER, {"role": "assistant", "content": None}], ", message 2 is missing key content."),
        (
            [USER, ANSWER, USER],
            ', message 3 has role "user"; the last message must be from the assistant.',
        ),
        (
            [USER, {**ANSWER, "weight": 0}],
            " has nothing to learn: all its assistant messages have weight 0.",
        ),
        ([USER, {**ANSWER, "mood": 1}], ', message 2 contains an extra "mood".'),
        (
            [{**USER, "weight": 1}, ANSWER],
            ', message 1 contains an extra "weight"; only assistant messages have it.',
        ),
        (
            [{**USER, "tool_call_id": "c"}, ANSWER],
            ', message 1 contains an extra "tool_call_id"; only tool messages have it.',
        ),
        ([USER, {**ANSWER, "weight": 0.5}], ", message 2 has weight 0.5; it must be 0 or 1."),
        ([USER, {**ANSWER, "weight": True}], ", message 2 has weight true; it must be 0 or 1."),
        ([USER, {**ANSWER, "weight": "1"}], ', message 2 has weight "1"; it must be 0 or 1.'),
        (
            [{**USER, "name": 7}, ANSWER],
            ", message 1 has name of type number; it must be a string.",
        ),
        ([{**USER, "content": 5}, ANSWER], None),
        ([{**USER, "content": []}, ANSWER], None),
        ([{**USER, "content": ["x"]}, ANSWER], None),
        ([{**USER, "content": [{"text": "x"}]}, ANSWER], None),
        ([{**USER, "content": [{"type": "text"}]}, ANSWER], None),
        ([{**USER, "content": [{"type": "text", "text": None}]}, ANSWER], None),
        ([{**USER, "content": [{"type": "text", "text": "x", "y": 1}]}, ANSWER], None),
        ([{**USER, "content": [{"type": "refusal", "refusal": "x"}]}, ANSWER], None),
        (
            [{**USER, "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, ANSWER],
            (
                ', message 1 has content[0] of type "image_url"; '
                'the model reads no images, only "text" is allowed.'
            ),
        ),
        (
            [USER, {"role": "assistant", "content": ""}],
            ", message 2 has empty content; an answer to learn needs text or tool_calls.",
        ),
        ([USER, {**ANSWER, "refusal": "no"}], None),
        ([USER, {**ANSWER, "refusal": 1}], None),
        ([USER, {**ANSWER, "audio": {"id": "a"}}], None),
    ],
)
def test_a_bad_conversation_is_refused(messages, problem):
    found = problem_of({"messages": messages})
    assert problem is None or found == problem


def test_an_extra_key_of_the_row_is_refused_in_openai_s_words():
    assert problem_in(USER, ANSWER, weight=1) == ' contains an extra "weight".'


def test_parallel_tool_calls_must_be_a_boolean():
    assert "parallel_tool_calls of type number" in problem_in(USER, ANSWER, parallel_tool_calls=1)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ("c1", "has tool_calls of type string; it must be an array."),
        ([1], "has tool_calls[0] of type number; it must be an object."),
        ([{**call(), "id": None}], "has tool_calls[0] without an id; it must be a string."),
        ([{**call(), "type": "x"}], 'has tool_calls[0].type "x"; it must be "function".'),
        ([{**call(), "index": 0}], 'contains an extra "index" in tool_calls[0].'),
        (
            [{"id": "c", "type": "function"}],
            "is missing key function in tool_calls[0].",
        ),
        ([call(), call()], 'has two tool calls with the id "c1"; give each its own.'),
        ([call(name="a b")], None),
        (
            [call(arguments={"a": 1})],
            (
                "has tool_calls[0].function.arguments of type object; "
                "they must be a string that holds a JSON object."
            ),
        ),
        ([call(arguments="{")], None),
        ([call(arguments="")], None),
        ([call(arguments="[1]")], None),
        ([call(arguments='{"a": NaN}')], None),
        ([call(arguments=r'{"a": "\ud800"}')], None),
    ],
)
def test_a_bad_tool_call_is_refused(made, problem):
    found = problem_in(USER, {"role": "assistant", "tool_calls": made})
    assert found.startswith(", message 2 ")
    assert problem is None or found == f", message 2 {problem}"


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ({}, "has tools of type object; it must be an array."),
        ([{"type": "function"}], "is missing key function in tools[0]."),
        ([{**TOOL, "type": "retrieval"}], None),
        ([{**TOOL, "x": 1}], 'contains an extra "x" in tools[0].'),
        ([TOOL, TOOL], 'has two tools named "look"; give each its own.'),
        ([{"type": "function", "function": {}}], "is missing key name in tools[0].function."),
        ([{"type": "function", "function": {"name": ""}}], None),
        ([{"type": "function", "function": {"name": "f", "parameters": "x"}}], None),
        ([{"type": "function", "function": {"name": "f", "strict": 1}}], None),
    ],
)
def test_a_bad_tool_is_refused(tools, problem):
    found = problem_in(USER, ANSWER, tools=tools)
    assert problem is None or found == f" {problem}"


def test_tools_and_functions_exclude_each_other():
    assert "has both tools and functions" in problem_in(
        USER, ANSWER, tools=[TOOL], functions=[TOOL["function"]]
    )


def test_tool_calls_and_function_call_exclude_each_other():
    answer = {
        "role": "assistant",
        "tool_calls": [call()],
        "function_call": {"name": "look", "arguments": "{}"},
    }
    assert "has both tool_calls and function_call" in problem_in(USER, answer)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"role": "tool", "content": "x"}, ", message 2 is missing key tool_call_id."),
        (
            {"role": "tool", "content": "x", "tool_call_id": "c1"},
            ', message 2 has tool_call_id "c1", which no earlier tool call has.',
        ),
        (
            {"role": "function", "content": "x", "name": "look"},
            ', message 2 answers function "look", which no earlier message calls.',
        ),
        ({"role": "function", "content": "x"}, ", message 2 is missing key name."),
    ],
)
def test_a_result_must_answer_an_earlier_call(answer, problem):
    assert problem_in(USER, answer, {"role": "assistant", "tool_calls": [call()]}) == problem


def test_all_problems_of_a_conversation_are_found_with_their_places():
    row = {
        "messages": [
            {"role": "user", "content": 5, "mood": 1},
            {"role": "bot"},
            {"role": "assistant", "content": "x", "weight": 2},
            USER,
        ],
        "id": 1,
        "tools": "x",
    }
    _, problems = parsed(row)
    assert [(problem.message_number, problem.field) for problem in problems] == [
        (None, "id"),
        (None, "tools"),
        (1, "messages[0].mood"),
        (1, "messages[0].content"),
        (2, "messages[1].role"),
        (3, "messages[2].weight"),
        (4, "messages[3].role"),
    ]
    assert {problem.line for problem in problems} == {7}


def test_long_values_are_cut_in_messages():
    assert len(problem_in({"role": "x" * 10_000, "content": "hi"}, ANSWER)) < 250
