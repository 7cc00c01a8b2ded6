"""Models: listed, retrieved by names with colons and slashes, deleted."""

from __future__ import annotations

from urllib.parse import quote

import pytest

LIST, RETRIEVE, DELETE = "GET /models", "GET /models/{model}", "DELETE /models/{model}"


@pytest.mark.endpoint(LIST)
def test_base_and_tuned_models_are_listed_once(wire, model, ended_job):
    names = [one["id"] for one in wire.get("/models").json()["data"]]
    assert {model, ended_job["fine_tuned_model"]} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.endpoint(RETRIEVE)
def test_a_tuned_model_is_retrieved_with_its_colons(wire, ended_job):
    name = ended_job["fine_tuned_model"]
    assert wire.get(f"/models/{name}").json()["id"] == name
    assert wire.get(f"/models/{quote(name, safe='')}").json()["id"] == name


@pytest.mark.endpoint(RETRIEVE)
@pytest.mark.parametrize("safe", ["/", ""], ids=["raw", "encoded"])
def test_a_name_with_a_slash_is_found(wire, safe):
    names = [one["id"] for one in wire.get("/models").json()["data"]]
    slashed = next((name for name in names if "/" in name), None)
    if slashed is None:
        pytest.skip("no model here has a slash in its name")
    assert wire.get(f"/models/{quote(slashed, safe=safe)}").json()["id"] == slashed


@pytest.mark.endpoint(RETRIEVE)
@pytest.mark.parametrize("safe", ["/", ""], ids=["raw", "encoded"])
def test_an_unknown_model_is_not_found(wire, safe):
    error = wire.refused("GET", f"/models/{quote('no/such-model', safe=safe)}", 404)
    assert error["code"] == "model_not_found"
    assert "no/such-model" in error["message"]


@pytest.mark.endpoint(DELETE)
def test_a_deleted_model_is_gone_and_answers_no_more(wire, preference_job):
    name = preference_job["fine_tuned_model"]
    assert wire.delete(f"/models/{name}").json() == {"id": name, "object": "model", "deleted": True}
    wire.refused("GET", f"/models/{name}", 404)
    messages = [{"role": "user", "content": "Say 1"}]
    body = {"model": name, "messages": messages}
    error = wire.refused("POST", "/chat/completions", 404, json=body)
    assert error["code"] == "model_not_found"


@pytest.mark.endpoint("POST /chat/completions")
def test_a_name_with_a_slash_answers(wire):
    names = [one["id"] for one in wire.get("/models").json()["data"]]
    slashed = next((name for name in names if "/" in name), None)
    if slashed is None:
        pytest.skip("no model here has a slash in its name")
    body = {"model": slashed, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    assert wire.post("/chat/completions", json=body).json()["choices"]


@pytest.mark.endpoint(DELETE)
def test_a_base_model_cannot_be_deleted(wire, model):
    answer = wire.http.delete(f"models/{model}")
    assert answer.status_code in (403, 404), answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
