"""Log-probabilities, functions and chosen answers over HTTP; the echo engine is always sure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sintonia.api.translate.logprobs import chat_logprobs, completion_logprobs
from sintonia.data.token_bytes import TokenText
from sintonia.serving.answers import ScoredToken

TEXT = "pão 🙂!"


def chat(client, content=TEXT, **parameters):
    # The echo ends with the header of the answer; that many tokens before it are the message.
    size = len(content.encode()) + len("E\nSassistant\n")  # E and S: one token each
    messages = [{"role": "user", "content": content}]
    body = {"model": "tiny", "messages": messages, "max_tokens": size, **parameters}
    return client.post("/v1/chat/completions", json=body)


def complete(client, prompt=TEXT, **parameters):
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 40, **parameters}
    return client.post("/v1/completions", json=body)


def events(answer) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def joined(content) -> str:
    return bytes(byte for token in content for byte in token["bytes"]).decode()


def test_chat_tells_each_token_with_its_bytes(client):
    choice = chat(client, logprobs=True, top_logprobs=2).json()["choices"][0]
    assert set(choice["logprobs"]) == {"content", "refusal"}
    assert choice["logprobs"]["refusal"] is None
    content = choice["logprobs"]["content"]
    assert joined(content) == choice["message"]["content"]
    assert content[0] == {
        "token": "p",
        "logprob": 0.0,
        "bytes": [112],
        "top_logprobs": [{"token": "p", "logprob": 0.0, "bytes": [112]}],
    }
    assert [token["token"] for token in content[1:3]] == ["\\xc3", "\\xa3"]


def test_without_top_logprobs_the_lists_are_empty(client):
    content = chat(client, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert {len(token["top_logprobs"]) for token in content} == {0}
    assert chat(client).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("stop", [None, "🙂", "!"])
def test_a_streamed_chat_carries_each_token_with_the_text_it_settles(client, stop):
    options = {"logprobs": True, "top_logprobs": 1, "n": 2, "stop": stop}
    whole = chat(client, **options).json()
    chunks = events(chat(client, stream=True, **options))
    for index in range(2):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        content = [t for c in own for t in (c["logprobs"] or {"content": []})["content"]]
        assert content == whole["choices"][index]["logprobs"]["content"]
        assert joined(content) == whole["choices"][index]["message"]["content"]
        for chunk in own:
            text = chunk["delta"].get("content") or ""
            told = (chunk["logprobs"] or {"content": []})["content"]
            assert joined(told) == text, "a token of one byte settles its own text"
    assert own[0]["logprobs"] is own[-1]["logprobs"] is None


def test_completions_tell_lists_with_offsets_behind_the_prompt(client):
    choice = complete(client, "é🙂b", logprobs=1).json()["choices"][0]
    assert choice["text"] == "é🙂b"
    lists = choice["logprobs"]
    assert set(lists) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert lists["tokens"][:3] == ["bytes:\\xc3", "bytes:\\xa9", "bytes:\\xf0"]
    assert lists["tokens"][-1] == "b"
    assert lists["text_offset"] == [3, 3, 4, 4, 4, 4, 5]
    assert lists["token_logprobs"] == [0.0] * 7
    assert lists["top_logprobs"][-1] == {"b": 0.0}


def test_echo_tells_the_prompt_first_and_its_first_token_has_nothing(client):
    lists = complete(client, "é b", logprobs=0, echo=True, max_tokens=1).json()["choices"][0]
    assert lists["text"] == "é bb"
    lists = lists["logprobs"]
    assert lists["tokens"] == ["bytes:\\xc3", "bytes:\\xa9", " ", "b", "b"]
    assert lists["token_logprobs"] == [None, 0.0, 0.0, 0.0, 0.0]
    assert lists["top_logprobs"] == [None, {"bytes:\\xa9": 0.0}, {" ": 0.0}, {"b": 0.0}, {"b": 0.0}]
    assert lists["text_offset"] == [0, 0, 1, 2, 3]


def test_max_tokens_0_scores_the_prompt(client):
    answer = complete(client, ["abc", "d"], logprobs=1, echo=True, max_tokens=0, n=2).json()
    assert [choice["text"] for choice in answer["choices"]] == ["abc", "abc", "d", "d"]
    assert answer["choices"][2]["logprobs"] == {
        "tokens": ["d"],
        "token_logprobs": [None],
        "top_logprobs": [None],
        "text_offset": [0],
    }
    assert answer["usage"]["completion_tokens"] == 0
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}


@pytest.mark.parametrize("echo", [False, True])
def test_a_streamed_completion_says_the_lists_of_the_whole_one(client, echo):
    options = {"logprobs": 2, "echo": echo, "stop": "!"}
    whole = complete(client, **options).json()["choices"][0]
    chunks = [event["choices"][0] for event in events(complete(client, stream=True, **options))]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for key, values in whole["logprobs"].items():
        parts = [chunk["logprobs"][key] for chunk in chunks if chunk["logprobs"]]
        assert [value for part in parts for value in part] == values


def test_best_of_gives_n_and_counts_all(client):
    answer = complete(client, ["ab", "c"], n=1, best_of=2, max_tokens=1).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["choices"][0]["logprobs"] is None


def test_what_is_ruled_out_is_9999_below():
    token = TokenText("a", b"a")
    scored = ScoredToken(token, float("-inf"), ((token, float("-inf")),))
    (shown,) = chat_logprobs([scored]).content
    assert shown.logprob == shown.top_logprobs[0].logprob == -9999.0
    lists = completion_logprobs([scored])
    assert lists.token_logprobs == [-9999.0]
    assert lists.top_logprobs == [{"a": -9999.0}]


def test_a_special_token_among_the_likeliest_has_no_bytes():
    end = TokenText("<|im_end|>", None)
    scored = ScoredToken(TokenText("a", b"a"), -1.0, ((end, -0.5),))
    (shown,) = chat_logprobs([scored]).content
    assert shown.top_logprobs[0].model_dump() == {
        "token": "<|im_end|>",
        "logprob": -0.5,
        "bytes": None,
    }
    assert completion_logprobs([scored]).top_logprobs == [{"<|im_end|>": -0.5, "a": -1.0}]


FUNCTION = {"name": "look_up", "parameters": {"type": "object", "properties": {}}}
CALL = '<tool_call>{"name": "look_up", "arguments": {"id": 7}}</tool_call>'


@pytest.fixture
def roomy(services) -> None:
    """Give the tiny model a context that a description of tools fits into."""
    facts = Path(services.library.find("tiny").ref.folder) / "sintonia.json"
    value = json.loads(facts.read_text("utf-8"))
    facts.write_text(json.dumps({**value, "context_tokens": 4096}), encoding="utf-8")


@pytest.mark.usefixtures("roomy")
def test_functions_are_answered_in_their_own_spelling(client):
    as_tools = {"tools": [{"type": "function", "function": FUNCTION}]}
    for choice in (None, "auto"):
        asked = {"functions": [FUNCTION], "function_call": choice}
        answer = chat(client, CALL * 2, **asked).json()
        (found,) = answer["choices"]
        assert found["finish_reason"] == "function_call"
        assert found["message"]["content"] is None
        assert found["message"]["function_call"] == {"name": "look_up", "arguments": '{"id": 7}'}
        assert "tool_calls" not in found["message"]
    assert (
        answer["usage"]["prompt_tokens"]
        == (chat(client, CALL * 2, **as_tools).json()["usage"]["prompt_tokens"])
    ), "the prompt is that of tools"
    chunks = [e["choices"][0] for e in events(chat(client, CALL, stream=True, **asked))]
    (call,) = [c["delta"]["function_call"] for c in chunks if "function_call" in c["delta"]]
    assert call == {"name": "look_up", "arguments": '{"id": 7}'}
    assert chunks[-1]["finish_reason"] == "function_call"
    assert not any("tool_calls" in chunk["delta"] for chunk in chunks)


@pytest.mark.usefixtures("roomy")
def test_no_function_is_called_when_none_is_wanted(client):
    message = chat(client, CALL, functions=[FUNCTION], function_call="none").json()
    assert "function_call" not in message["choices"][0]["message"]
    assert CALL in message["choices"][0]["message"]["content"]


@pytest.mark.usefixtures("roomy")
def test_logprobs_leave_out_the_tokens_of_a_call(client):
    asked = {"functions": [FUNCTION], "logprobs": True}
    choice = chat(client, f"Vejo. {CALL}", **asked).json()["choices"][0]
    shown = joined(choice["logprobs"]["content"])
    assert choice["message"]["content"].startswith(shown)
    assert shown == "Vejo."
