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
    told = ask(wire, model, max_tokens=2, logprobs=2)["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["text_offset"])
    assert all(1 <= len(top) <= 3 for top in told["top_logprobs"])


def test_a_prompt_is_scored_without_being_continued(wire, model):
    (choice,) = ask(wire, model, max_tokens=0, echo=True, logprobs=0)["choices"]
    assert choice["text"] == "abc"
    first, *rest = choice["logprobs"]["token_logprobs"]
    assert first is None
    assert all(value <= 0 for value in rest)


def test_the_best_of_several_is_given(wire, model):
    options = {"best_of": 4, "n": 2, "temperature": 1, "seed": 3}
    answer = ask(wire, model, **options)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert ask(wire, model, **options)["choices"] == answer["choices"]


def test_a_prompt_of_token_ids_is_taken(wire, model):
    assert ask(wire, model, prompt=[65, 66])["usage"]["prompt_tokens"] == 2
    assert len(ask(wire, model, prompt=[[65], [66, 67]])["choices"]) == 2


def test_penalties_and_bias_are_taken(wire, model):
    options = {"frequency_penalty": 2, "presence_penalty": -2, "logit_bias": {"65": -100}}
    assert ask(wire, model, **options)["choices"]


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
