"""OpenAI's first fine-tuning API, which the specification no longer has: ``/fine-tunes``."""

from __future__ import annotations

import json

import pytest

from conformance.calls import upload, wait_until
from conformance.sdk.rows import pair_rows

ENDED = {"succeeded", "failed", "cancelled"}
FIELDS = {
    "id",
    "object",
    "model",
    "created_at",
    "updated_at",
    "fine_tuned_model",
    "hyperparams",
    "organization_id",
    "status",
    "training_files",
    "validation_files",
    "result_files",
}


@pytest.fixture(scope="module")
def made(wire, model) -> dict:
    """A fine-tune as it was made."""
    file_id = upload(wire, "pairs.jsonl", pair_rows())["id"]
    body = {"training_file": file_id, "model": model, "n_epochs": 1}
    return wire.post("/fine-tunes", json=body).json()


@pytest.mark.endpoint("POST /fine-tunes")
def test_a_new_fine_tune_has_the_fields_of_its_time(made):
    assert set(made) == FIELDS | {"events"}
    assert made["id"].startswith("ft-")
    assert (made["object"], made["status"]) == ("fine-tune", "pending")
    assert made["training_files"][0]["object"] == "file"


@pytest.mark.endpoint("GET /fine-tunes/{fine_tune_id}")
def test_a_fine_tune_ends_with_a_model_and_its_results(wire, made, job_seconds):
    path = f"/fine-tunes/{made['id']}"
    ended = wait_until(wire, path, lambda found: found["status"] in ENDED, job_seconds)
    assert ended["status"] == "succeeded", ended
    assert ended["fine_tuned_model"]
    assert ended["hyperparams"]["n_epochs"] == 1
    assert ended["result_files"][0]["purpose"] == "fine-tune-results"


@pytest.mark.endpoint("GET /fine-tunes/{fine_tune_id}/events")
def test_events_are_streamed_until_the_end(wire, made):
    with wire.http.stream(
        "GET", f"fine-tunes/{made['id']}/events", params={"stream": "true"}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert events == wire.get(f"/fine-tunes/{made['id']}/events").json()["data"]
    assert {event["object"] for event in events} == {"fine-tune-event"}


@pytest.mark.endpoint("GET /fine-tunes")
def test_fine_tunes_are_listed_whole(wire, made):
    found = wire.get("/fine-tunes").json()
    assert set(found) == {"object", "data"}
    listed = {one["id"]: one for one in found["data"]}
    assert set(listed[made["id"]]) == FIELDS


@pytest.mark.endpoint("POST /fine-tunes/{fine_tune_id}/cancel")
def test_a_fine_tune_that_has_ended_is_not_cancelled(wire, made):
    wire.refused("POST", f"/fine-tunes/{made['id']}/cancel", 400)


@pytest.mark.endpoint("GET /fine-tunes/{fine_tune_id}")
def test_an_unknown_fine_tune_is_not_found(wire, made):
    wire.refused("GET", "/fine-tunes/ft-none", 404)
