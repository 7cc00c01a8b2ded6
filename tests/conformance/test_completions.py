"""Completions of raw prompts."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.endpoint("POST /completions")


def ask(wire, model: str, **options) -> dict:
    body = {"model": model, "prompt": "abc", "max_tokens": 4, "temperature": 0, **options}
    return wire.post("/completions", json=body).json()


def test_a_prompt_is_continued(wire, model):
    answer = ask(wire, model)
    assert answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    assert isinstance(choice["text"], str)
    assert choice["finish_reason"] in {"stop", "length"}


def test_several_prompts_are_answered_in_order(wire, model):
    answer = ask(wire, model, prompt=["abc", "xyz"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]


def test_an_echo_begins_with_the_prompt(wire, model):
    assert ask(wire, model, echo=True)["choices"][0]["text"].startswith("abc")


def test_the_length_is_16_unless_told(wire, model):
    answer = ask(wire, model, prompt="tell me a long story " * 4, max_tokens=None)
    assert answer["usage"]["completion_tokens"] <= 16


def test_log_probabilities_are_told_where_they_are_asked_for(wire, model):
    body = {"model": model, "prompt": "abc", "max_tokens": 2, "temperature": 0, "logprobs": 2}
    if wire.http.post("completions", json=body).status_code == 400:
        pytest.skip("not there: logprobs")
    told = wire.post("/completions", json=body).json()["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["text_offset"])
    assert all(len(top) <= 3 for top in told["top_logprobs"])


def test_a_stream_says_what_the_whole_answer_says(wire, model):
    whole = ask(wire, model)["choices"][0]
    body = {"model": model, "prompt": "abc", "max_tokens": 4, "temperature": 0}
    chunks = wire.stream("/completions", body)
    assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"]) == whole["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


def test_a_stream_ends_with_its_usage_when_asked(wire, model):
    options = {"stream_options": {"include_usage": True}}
    body = {"model": model, "prompt": "abc", "max_tokens": 4, "temperature": 0, **options}
    chunks = wire.stream("/completions", body)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0
