"""transformers is the oracle: what it renders and encodes, we do, on the embedded model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.examples import Message, ToolCall

pytestmark = pytest.mark.embedded

WORDS = [
    "olá",
    "mundo",
    "the",
    "",
    "order\n\n123",
    "4567",
    "€12,50",
    "\t",
    "naïve",
    "don't",
    "你好",
    "🙂",
    "<b>x</b>",
    "&",
    "'quoted'",
    '"twice"',
    "{json:",
    "[1,",
    "2]}",
    "C:\\path",
    "é️",
    "user@example.org",
    "{{",
    "jinja",
    "}}",
    "{%",
    "if",
    "%}",
]


@pytest.fixture(scope="module")
def folder(embedded_home) -> Path:
    base = Library(embedded_home, catalog.load()).find("smollm2-135m-instruct")
    assert base is not None
    return Path(base.ref.folder)


@pytest.fixture(scope="module")
def renderer(folder) -> Renderer:
    return Renderer.from_folder(folder)


@pytest.fixture(scope="module")
def oracle(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def conversations(count: int, *, tools: bool):
    """Yield seeded conversations of 1 to 8 messages, hard characters included."""
    numbers = random.Random(7)

    def text() -> str:
        return " ".join(numbers.choices(WORDS, k=numbers.randint(1, 12))).strip() or "x"

    for row in range(count):
        roles = ["system"] * (row % 3 == 0) + ["user", "assistant"] * 3
        messages = [{"role": role, "content": text()} for role in roles[: numbers.randint(2, 7)]]
        if tools and messages[-1]["role"] == "user":
            arguments = {"text": text(), "n": numbers.randint(0, 9)}
            function = {"name": "look_up", "arguments": arguments}
            call = {"id": "call_1", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": "call_1", "content": text()})
        yield messages


def ours(messages) -> list[Message]:
    return [
        Message(
            message["role"],
            message["content"],
            tool_calls=tuple(
                ToolCall(c["id"], c["function"]["name"], json.dumps(c["function"]["arguments"]))
                for c in message.get("tool_calls", [])
            ),
            tool_call_id=message.get("tool_call_id"),
        )
        for message in messages
    ]


def encoded(oracle, messages, **kwargs) -> list[int]:
    given = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, **kwargs}
    return list(oracle.apply_chat_template(messages, **given))


def test_a_thousand_plain_chats_equal_the_models_own_template(renderer, oracle, folder):
    own = (folder / "own_chat_template.jinja").read_text(encoding="utf-8")
    for messages in conversations(1000, tools=False):
        expected = encoded(oracle, messages, chat_template=own)
        assert renderer.chat_prompt(ours(messages)) == expected


def test_conversations_with_tools_equal_transformers_rendering_of_our_template(renderer, oracle):
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
    function = {"name": "look_up", "description": "Finds <é> & more", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    for messages in conversations(200, tools=True):
        expected = encoded(oracle, messages, tools=tools)
        assert renderer.chat_prompt(ours(messages), tools) == expected


def test_the_tokenizer_equals_llama_cpps_reading_of_the_file(renderer):
    """Digits stand alone and a space before one is a token of its own (`pre = smollm`)."""
    ids = renderer.completion_prompt("In 1234 there were 56.")
    pieces = [renderer._tokenizer.id_to_token(i) for i in ids]
    assert pieces == ["In", "Ġ", "1", "2", "3", "4", "Ġthere", "Ġwere", "Ġ", "5", "6", "."]
