"""Chat completions: whole, streamed, with all that scripts send."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.endpoint("POST /chat/completions")

TOOL = {"type": "function", "function": {"name": "sun", "parameters": {"type": "object"}}}
"""Small, since the model of the suite's own server reads a few hundred tokens."""


def body(model: str, **options) -> dict:
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Say 3"}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, **options}


def ask(wire, model: str, **options) -> dict:
    return wire.post("/chat/completions", json=body(model, **options)).json()


def test_an_answer_has_a_message_and_its_usage(wire, model):
    answer = ask(wire, model)
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_tuned_model_and_its_checkpoints_answer_under_their_names(wire, ended_job):
    path = f"/fine_tuning/jobs/{ended_job['id']}/checkpoints"
    names = [c["fine_tuned_model_checkpoint"] for c in wire.get(path).json()["data"]]
    for name in (ended_job["fine_tuned_model"], *names):
        assert ask(wire, name)["model"] == name


def test_the_same_seed_gives_the_same_answer(wire, model):
    first, second = (ask(wire, model, temperature=1, seed=5) for _ in range(2))
    assert first["choices"] == second["choices"]
    assert first["system_fingerprint"] == second["system_fingerprint"]


def test_several_answers_are_numbered(wire, model):
    assert [choice["index"] for choice in ask(wire, model, n=3)["choices"]] == [0, 1, 2]


def test_parts_of_text_are_read_as_text(wire, model):
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "3"}]
    plain = ask(wire, model, messages=[{"role": "user", "content": "Say 3"}])
    assert (
        ask(wire, model, messages=[{"role": "user", "content": parts}])["choices"]
        == (plain["choices"])
    )


def test_null_means_left_out(wire, model):
    options = ("stop", "tools", "tool_choice", "response_format", "seed", "logit_bias", "user")
    assert ask(wire, model, **dict.fromkeys(options))["choices"] == ask(wire, model)["choices"]


def test_tools_are_taken(wire, model):
    assert ask(wire, model, tools=[TOOL], tool_choice="none")["choices"]
    assert ask(wire, model, tools=[TOOL], tool_choice="auto")["choices"]


def test_functions_are_taken_and_their_results_too(wire, model):
    functions = [TOOL["function"]]
    for choice in ("none", "auto"):
        assert ask(wire, model, functions=functions, function_call=choice)["choices"]
    called = {"name": "sun", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "Say 3"},
        {"role": "assistant", "content": None, "function_call": called},
        {"role": "function", "name": "sun", "content": "rain"},
    ]
    assert ask(wire, model, messages=messages, functions=functions)["choices"]


def test_results_of_tools_are_taken(wire, model):
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "sun", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "Say 3"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert ask(wire, model, messages=messages, tools=[TOOL])["choices"]


def test_penalties_and_bias_are_taken(wire, model):
    for value in (-2, 0, 2):
        options = {"frequency_penalty": value, "presence_penalty": -value}
        assert ask(wire, model, **options, logit_bias={"65": 10 * value})["choices"]


def test_an_answer_stops_before_a_stop_text(wire, model):
    whole = ask(wire, model, max_tokens=40)["choices"][0]["message"]["content"]
    if len(whole) < 3:
        pytest.skip("the model says too little to stop it")
    stop = whole[2]
    stopped = ask(wire, model, max_tokens=40, stop=[stop])["choices"][0]
    assert stopped["message"]["content"] == whole[: whole.index(stop)]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_length_is_bounded_by_either_name(wire, model, name):
    given = {"max_tokens": None, name: 2}
    answer = ask(wire, model, **given)
    assert answer["usage"]["completion_tokens"] <= 2


def test_log_probabilities_are_told_where_they_are_asked_for(wire, model):
    (choice,) = ask(wire, model, logprobs=True, top_logprobs=2)["choices"]
    told = choice["logprobs"]["content"]
    assert told
    text = b"".join(bytes(token["bytes"]) for token in told).decode()
    assert text == choice["message"]["content"]
    for token in told:
        assert token["logprob"] <= 0
        assert 1 <= len(token["top_logprobs"]) <= 2


def test_log_probabilities_are_streamed_with_their_tokens(wire, model):
    whole = ask(wire, model, logprobs=True)["choices"][0]["logprobs"]["content"]
    chunks = wire.stream("/chat/completions", body(model, logprobs=True))
    parts = [c["choices"][0].get("logprobs") for c in chunks if c["choices"]]
    told = [token for part in parts if part for token in part["content"]]
    assert [one["token"] for one in told] == [one["token"] for one in whole]


def test_a_stream_says_what_the_whole_answer_says(wire, model):
    whole = ask(wire, model)
    chunks = wire.stream("/chat/completions", body(model))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert reasons[-1] == whole["choices"][0]["finish_reason"]
    assert set(reasons[:-1]) <= {None}
    assert not any("usage" in chunk and chunk["usage"] for chunk in chunks)


def test_a_stream_ends_with_its_usage_when_asked(wire, model):
    chunks = wire.stream("/chat/completions", body(model, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == ask(wire, model)["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_several_streamed_answers_are_told_apart(wire, model):
    chunks = wire.stream("/chat/completions", body(model, n=2))
    assert {c["index"] for chunk in chunks for c in chunk["choices"]} == {0, 1}
