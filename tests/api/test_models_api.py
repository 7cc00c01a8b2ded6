"""Models over HTTP."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from api_calls import error_of, register_tuned

from sintonia.domain.models import ModelKind


def test_bases_aliases_and_tuned_models_are_listed(client, services, tuned):
    checkpoint = register_tuned(services, f"{tuned}:ckpt-step-3", ModelKind.CHECKPOINT)
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    assert {"tiny", "gpt-tiny", "smollm2-135m-instruct", "gpt-4o-mini"} <= set(models)
    assert models[tuned] == {
        "id": tuned,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "personal",
        "root": "tiny",
        "parent": "tiny",
    }
    assert checkpoint in models
    assert models["gpt-tiny"]["root"] == "tiny"
    assert models["tiny"]["owned_by"] == "system"


@pytest.mark.parametrize("name", ["tiny", "gpt-tiny", "gpt-4o-2024-08-06"])
def test_a_base_or_an_alias_is_retrieved(client, name):
    assert client.get(f"/v1/models/{name}").json()["id"] == name


def test_a_name_with_colons_is_retrieved_raw_or_escaped(client, tuned):
    for path in (tuned, quote(tuned, safe="")):
        assert client.get(f"/v1/models/{path}").json()["id"] == tuned


@pytest.mark.parametrize("path", ["Qwen/Qwen3-0.6B", "Qwen%2FQwen3-0.6B"])
def test_a_name_with_a_slash_reaches_the_model_route(client, path):
    message = error_of(client.get(f"/v1/models/{path}"), 404, "model_not_found", "model")
    assert message.startswith("The model `Qwen/Qwen3-0.6B` does not exist")


def test_a_tuned_model_is_deleted_once(client, tuned):
    deleted = client.delete(f"/v1/models/{tuned}").json()
    assert deleted == {"id": tuned, "object": "model", "deleted": True}
    error_of(client.delete(f"/v1/models/{tuned}"), 404, "model_not_found", "model")
    assert tuned not in [model["id"] for model in client.get("/v1/models").json()["data"]]


@pytest.mark.parametrize("name", ["tiny", "gpt-tiny"])
def test_a_base_model_is_not_deleted(client, name):
    message = error_of(client.delete(f"/v1/models/{name}"), 403, None, "model")
    assert "base model" in message
