"""The API held wrong: each mistake gets OpenAI's envelope with its status, code and message."""

from __future__ import annotations

import json

import pytest

from conformance.calls import upload, wait_for_job
from conformance.sdk.rows import chat_rows, preference_rows

CHAT, JOBS = "POST /chat/completions", "POST /fine_tuning/jobs"


def refused_job(wire, status: int = 400, **body) -> dict:
    return wire.refused("POST", "/fine_tuning/jobs", status, json=body)


def why_refused(wire, job_seconds: float, **body) -> dict:
    """Return the error of a job that is refused at once, or fails before it trains."""
    answer = wire.http.post("fine_tuning/jobs", json=body)
    told = answer.json()
    if answer.status_code == 400:
        return told["error"]
    return wait_for_job(wire, told["id"], job_seconds)["error"]


def refused_chat(wire, status: int = 400, **body) -> dict:
    return wire.refused("POST", "/chat/completions", status, json=body)


USER = [{"role": "user", "content": "Say 1"}]


@pytest.mark.endpoint(CHAT)
def test_a_model_that_does_not_exist_is_not_found(wire):
    error = refused_chat(wire, 404, model="gpt-none", messages=USER)
    assert error["message"] == (
        "The model `gpt-none` does not exist or you do not have access to it."
    )
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")


@pytest.mark.endpoint(JOBS)
def test_a_model_that_cannot_be_tuned_is_refused(wire, chat_file):
    error = refused_job(wire, model="gpt-none", training_file=chat_file)
    assert error["message"].startswith(
        "Model gpt-none is not available for fine-tuning or does not exist."
    )
    assert (error["code"], error["param"]) == ("model_not_available", "model")


@pytest.mark.endpoint(JOBS)
def test_a_file_that_does_not_exist_is_refused(wire, model):
    error = refused_job(wire, model=model, training_file="file-none")
    assert "File 'file-none' does not exist" in error["message"]
    assert "invalid training_file: file-none" in error["message"]
    assert error["param"] == "training_file"


@pytest.mark.endpoint(JOBS)
def test_a_file_of_another_purpose_is_refused(wire, model):
    file_id = upload(wire, "other.jsonl", chat_rows(), "assistants")["id"]
    error = refused_job(wire, model=model, training_file=file_id)
    assert f"File '{file_id}' has purpose 'assistants', expected 'fine-tune'" in error["message"]
    assert (error["code"], error["param"]) == ("invalid_file_purpose", "training_file")


@pytest.mark.endpoint(JOBS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"{not json", "cannot be parsed. Error: line contains invalid json"),
        (b'{"messages": []}', "Example 3"),
        (b'{"messages": [{"content": "a"}]}', "message 1"),
    ],
    ids=["not json", "empty", "no role"],
)
def test_a_broken_row_is_named(wire, model, row, message):
    rows = chat_rows().splitlines()
    file = upload(wire, "broken.jsonl", b"\n".join([*rows[:2], row, *rows[3:]]))
    assert file["status"] == "error"
    assert "Example 3" in file["status_details"]
    assert message in file["status_details"]
    error = refused_job(wire, model=model, training_file=file["id"])
    assert "Example 3" in error["message"]
    assert error["code"] in {"invalid_training_file", "invalid_file_format"}


@pytest.mark.endpoint(JOBS)
def test_too_few_rows_are_counted(wire, model, job_seconds):
    file_id = upload(wire, "few.jsonl", chat_rows(7))["id"]
    error = why_refused(wire, job_seconds, model=model, training_file=file_id)
    assert "7 example(s), but must have at least 10 examples" in error["message"]
    assert error["param"] == "training_file"


@pytest.mark.endpoint(JOBS)
def test_rows_of_another_method_are_refused_in_words(wire, model, job_seconds):
    file_id = upload(wire, "pairs.jsonl", preference_rows())["id"]
    error = why_refused(wire, job_seconds, model=model, training_file=file_id)
    assert error["code"] in {"invalid_training_file", "invalid_file_format"}
    assert "preference" in error["message"]


@pytest.mark.endpoint(JOBS)
@pytest.mark.parametrize(
    ("hyperparameters", "param"),
    [
        ({"n_epochs": 0}, "hyperparameters.n_epochs"),
        ({"n_epochs": 51}, "hyperparameters.n_epochs"),
        ({"batch_size": "many"}, "hyperparameters.batch_size"),
        ({"learning_rate_multiplier": 0}, "hyperparameters.learning_rate_multiplier"),
        ({"epochs": 3}, "hyperparameters.epochs"),
    ],
    ids=str,
)
def test_a_hyperparameter_out_of_range_is_named(wire, model, chat_file, hyperparameters, param):
    error = refused_job(wire, model=model, training_file=chat_file, hyperparameters=hyperparameters)
    assert error["param"] == param
    assert error["code"]


@pytest.mark.endpoint(JOBS)
def test_an_extra_field_is_not_permitted(wire, model, chat_file):
    error = refused_job(wire, model=model, training_file=chat_file, surprise=1)
    assert (error["code"], error["param"]) == ("unknown_parameter", "surprise")


@pytest.mark.endpoint(CHAT)
def test_a_missing_field_is_named(wire, model):
    error = refused_chat(wire, model=model)
    assert (error["code"], error["param"]) == ("missing_required_parameter", "messages")
    assert error["message"] == "Missing required parameter: 'messages'."


@pytest.mark.endpoint(CHAT)
def test_a_wrong_type_is_named(wire, model):
    error = refused_chat(wire, model=model, messages=USER, n="two")
    assert (error["code"], error["param"]) == ("invalid_type", "n")


@pytest.mark.endpoint(CHAT)
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"temperature": 3}, "decimal_above_max_value"),
        ({"temperature": -1}, "decimal_below_min_value"),
        ({"top_p": 2}, "decimal_above_max_value"),
        ({"frequency_penalty": 3}, "decimal_above_max_value"),
        ({"presence_penalty": -3}, "decimal_below_min_value"),
        ({"n": 0}, "integer_below_min_value"),
        ({"n": 129}, "integer_above_max_value"),
        ({"logprobs": True, "top_logprobs": 21}, "integer_above_max_value"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named(wire, model, wrong, code):
    error = refused_chat(wire, model=model, messages=USER, **wrong)
    assert (error["param"], error["code"]) == ([*wrong][-1], code)


@pytest.mark.endpoint(CHAT)
def test_likely_tokens_are_told_only_with_log_probabilities(wire, model):
    assert refused_chat(wire, model=model, messages=USER, top_logprobs=2)["param"] == "top_logprobs"


@pytest.mark.endpoint(CHAT)
def test_an_unknown_parameter_is_named(wire, model):
    error = refused_chat(wire, model=model, messages=USER, surprise=1)
    assert (error["code"], error["param"]) == ("unknown_parameter", "surprise")
    assert error["message"].startswith("Unrecognized request argument supplied: surprise")


@pytest.mark.endpoint("POST /completions")
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 21}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_a_wrong_parameter_of_a_completion_is_named(wire, model, wrong, param):
    body = {"model": model, "prompt": "abc", "max_tokens": 1, **wrong}
    assert wire.refused("POST", "/completions", 400, json=body)["param"] == param


@pytest.mark.endpoint("GET /models")
@pytest.mark.parametrize(
    "path", ["/models", "/files", "/fine_tuning/jobs", "/batches", "/models/gpt-none"]
)
def test_a_query_parameter_that_nothing_reads_is_named(wire, path):
    error = wire.refused("GET", path, 400, params={"surprise": 1})
    assert error["param"] == "surprise"


@pytest.mark.endpoint(CHAT)
def test_an_unknown_role_is_named(wire, model):
    error = refused_chat(wire, model=model, messages=[{"role": "bot", "content": "a"}])
    assert error["param"] == "messages[0].role"
    assert error["code"] == "invalid_value"


@pytest.mark.endpoint(CHAT)
def test_a_prompt_past_the_context_says_both_numbers(wire, model):
    for num_words in (8_000, 40_000, 200_000):  # long ones cost the server seconds
        messages = [{"role": "user", "content": "word " * num_words}]
        body = {"model": model, "messages": messages, "max_tokens": 1}
        if wire.http.post("chat/completions", json=body).status_code != 200:
            break
    error = refused_chat(wire, **body)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert "maximum context length is" in error["message"]


@pytest.mark.endpoint(CHAT)
@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff", json.dumps("text").encode(), b""], ids=repr
)
def test_a_body_that_is_no_object_is_refused(wire, content):
    headers = {"Content-Type": "application/json"}
    error = wire.refused("POST", "/chat/completions", 400, content=content, headers=headers)
    assert error["type"] == "invalid_request_error"


@pytest.mark.endpoint("GET /models")
@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing/here"), ("PUT", "/models")])
def test_an_unknown_path_or_method_has_the_envelope_too(wire, method, path):
    answer = wire.http.request(method, path.removeprefix("/"))
    assert answer.status_code in (404, 405)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
