"""Batches: many requests in a file, answered in another."""

from __future__ import annotations

import json

import pytest

from conformance.calls import upload, wait_until
from conformance.sdk.rows import batch_lines

ONE = "/batches/{batch_id}"
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def batch(wire, model) -> dict:
    """A batch of three chats."""
    file_id = upload(wire, "batch.jsonl", batch_lines(model), "batch")["id"]
    return create(wire, file_id, metadata={"set": "conformance"})


def create(wire, file_id: str, **options) -> dict:
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **options,
    }
    return wire.post("/batches", json=body).json()


@pytest.mark.endpoint("POST /batches")
def test_a_new_batch_is_validated_first(batch):
    assert batch["id"].startswith("batch_")
    assert batch["status"] in {"validating", "in_progress"}
    assert batch["metadata"] == {"set": "conformance"}
    assert batch["expires_at"] == batch["created_at"] + 24 * 3600


@pytest.mark.endpoint(f"GET {ONE}")
def test_a_batch_ends_with_an_answer_for_each_request(wire, batch, job_seconds):
    ended = wait_until(
        wire, f"/batches/{batch['id']}", lambda found: found["status"] in ENDED, job_seconds
    )
    assert ended["status"] == "completed", ended
    assert ended["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    text = wire.get(f"/files/{ended['output_file_id']}/content").text
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["custom_id"] for line in lines} == {"request-0", "request-1", "request-2"}
    for line in lines:
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["object"] == "chat.completion"


@pytest.mark.endpoint(f"GET {ONE}")
def test_an_unknown_batch_is_not_found(wire, batch):
    assert wire.refused("GET", "/batches/batch_none", 404)["type"] == "invalid_request_error"


@pytest.mark.endpoint("GET /batches")
def test_batches_are_listed_newest_first_and_page_by_page(wire, batch, model):
    file_id = upload(wire, "more.jsonl", batch_lines(model, 1), "batch")["id"]
    made = [create(wire, file_id)["id"] for _ in range(2)]
    listed = [one["id"] for one in wire.pages("/batches", limit=2)]
    assert listed[:2] == made[::-1]
    assert batch["id"] in listed
    assert len(listed) == len(set(listed))


@pytest.mark.endpoint(f"POST {ONE}/cancel")
def test_a_batch_is_cancelled(wire, batch, model, job_seconds):
    file_id = upload(wire, "many.jsonl", batch_lines(model, 2000), "batch")["id"]
    made = create(wire, file_id)
    path = f"/batches/{made['id']}"
    assert wire.post(f"{path}/cancel").json()["status"] in {"cancelling", "cancelled"}
    ended = wait_until(wire, path, lambda found: found["status"] in ENDED, job_seconds)
    assert ended["status"] == "cancelled"
