"""A chat request becomes the very prompt that training made of the same conversation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.api.bodies import parse
from sintonia.api.schemas.chat import ChatCompletionRequest
from sintonia.api.translate.chat import chat_request
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.data.validate import iter_examples

CALLS = [
    {
        "function": {"arguments": '{"b": 1, "a": [2]}', "name": "look_up"},
        "type": "function",
        "id": "call_1",
    }
]
TOOLS = [
    {
        "function": {
            "parameters": {"type": "object", "properties": {"z": {}, "a": {}}},
            "strict": None,
            "name": "look_up",
            "description": "Find it.",
        },
        "type": "function",
    }
]
FUNCTIONS = [{"parameters": {"type": "object", "properties": {}}, "name": "look_up"}]
CONVERSATIONS = {
    "functions": {
        "functions": FUNCTIONS,
        "messages": [
            {"role": "user", "content": "seek"},
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "look_up", "arguments": '{"b": 1}'},
            },
            {"role": "function", "name": "look_up", "content": "found"},
            {"role": "assistant", "content": "Once more."},
            {"role": "user", "content": "again"},
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "look_up", "arguments": "{}"},
            },
            {"role": "function", "name": "look_up", "content": None},
        ],
    },
    "plain": {"messages": [{"role": "user", "content": "hello"}]},
    "parts": {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b ")]},
        ]
    },
    "refusal": {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "user", "content": "why"},
        ]
    },
    "tools": {
        "tools": TOOLS,
        "messages": [
            {"role": "system", "content": "Use the tools."},
            {"role": "user", "content": "seek", "name": "ana"},
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        ],
    },
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_serving_sends_the_prompt_that_training_learned_from(tiny_home, tmp_path, kind):
    base = Library(tiny_home, catalog.load()).find("tiny").ref
    renderer = Renderer.from_folder(Path(base.folder))
    conversation = CONVERSATIONS[kind]
    answer = {"role": "assistant", "content": "answer"}
    row = {**conversation, "messages": [*conversation["messages"], answer]}
    path = tmp_path / "row.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    ((_, example),) = iter_examples(path)
    learned = renderer.sequences(example)[-1].prompt_ids
    body = {"model": "tiny", **conversation}
    request = chat_request(parse(ChatCompletionRequest, body), body)
    assert renderer.chat_prompt(request.messages, request.tools) == list(learned)
    assert request.messages == example.messages[:-1]
