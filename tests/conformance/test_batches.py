"""Batches: many requests in a file, answered in another."""

from __future__ import annotations

import json

import pytest

from conformance import differences
from conformance.calls import batch_body, upload, wait_until
from conformance.sdk.rows import batch_lines
from conformance.spec import Operation

ONE = "/batches/{batch_id}"
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def batch(wire, model) -> dict:
    """A batch of three chats."""
    file_id = upload(wire, "batch.jsonl", batch_lines(model), "batch")["id"]
    return create(wire, file_id, metadata={"set": "conformance"})


def create(wire, file_id: str, **options) -> dict:
    return wire.post("/batches", json=batch_body(file_id, **options)).json()


def ended(wire, made: dict, seconds: float) -> dict:
    path = f"/batches/{made['id']}"
    return wait_until(wire, path, lambda found: found["status"] in ENDED, seconds)


def lines_of(wire, file_id: str) -> list[dict]:
    text = wire.get(f"/files/{file_id}/content").text
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.endpoint("POST /batches")
def test_a_new_batch_is_validated_first(batch):
    assert batch["id"].startswith("batch_")
    assert batch["status"] in {"validating", "in_progress"}
    assert batch["metadata"] == {"set": "conformance"}
    assert batch["expires_at"] == batch["created_at"] + 24 * 3600


@pytest.mark.endpoint(f"GET {ONE}")
def test_a_batch_ends_with_an_answer_for_each_request(wire, batch, job_seconds):
    done = ended(wire, batch, job_seconds)
    assert done["status"] == "completed", done
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert wire.get(f"/files/{done['output_file_id']}").json()["purpose"] == "batch_output"
    lines = lines_of(wire, done["output_file_id"])
    assert {line["custom_id"] for line in lines} == {"request-0", "request-1", "request-2"}
    for line in lines:
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert_whole(wire, line["response"]["body"])


def assert_whole(wire, body: dict) -> None:
    """Check an answer in a batch as one of the endpoint."""
    operation = Operation("POST", "/chat/completions")
    schema = wire.spec.answer_schema(operation, 200, "application/json")
    found = wire.spec.departures(schema, body, str(operation))
    assert not differences.unlisted(found, differences.listed())


@pytest.mark.endpoint(f"GET {ONE}")
def test_a_request_that_is_refused_is_in_the_other_file(wire, model, job_seconds):
    rows = [json.loads(line) for line in batch_lines(model, 2).splitlines()]
    rows[1]["body"]["messages"][0]["content"] = "word " * 40_000
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    made = create(wire, upload(wire, "mixed.jsonl", text, "batch")["id"])
    done = ended(wire, made, job_seconds)
    if done["request_counts"]["failed"] == 0:
        pytest.skip("the context is longer than this prompt")
    assert done["status"] == "completed", done
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (line,) = lines_of(wire, done["error_file_id"])
    assert line["custom_id"] == "request-1"
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["code"] == "context_length_exceeded"


@pytest.mark.endpoint(f"GET {ONE}")
def test_a_file_that_is_wrong_fails_the_batch_and_each_line_is_named(wire, model, job_seconds):
    lines = batch_lines(model, 2).splitlines()
    text = b"\n".join([lines[0], lines[0], b"{not json"])
    done = ended(wire, create(wire, upload(wire, "bad.jsonl", text, "batch")["id"]), job_seconds)
    assert done["status"] == "failed", done
    errors = done["errors"]["data"]
    assert [error["line"] for error in errors] == [2, 3]
    assert {error["code"] for error in errors} == {"duplicate_custom_id", "invalid_json_line"}


@pytest.mark.endpoint("POST /batches")
def test_files_of_answers_can_expire(wire, model, job_seconds):
    file_id = upload(wire, "soon.jsonl", batch_lines(model, 1), "batch")["id"]
    soon = {"anchor": "created_at", "seconds": 3600}
    done = ended(wire, create(wire, file_id, output_expires_after=soon), job_seconds)
    file = wire.get(f"/files/{done['output_file_id']}").json()
    assert file["expires_at"] == file["created_at"] + 3600


@pytest.mark.endpoint("POST /batches")
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(wire, model, wrong, param):
    file_id = upload(wire, "one.jsonl", batch_lines(model, 1), "batch")["id"]
    body = batch_body(file_id, **wrong)
    assert wire.refused("POST", "/batches", 400, json=body)["param"] == param


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
    rest = wire.get("/batches", params={"after": listed[-1]}).json()
    assert (rest["data"], rest["has_more"]) == ([], False)


@pytest.mark.endpoint(f"POST {ONE}/cancel")
def test_a_batch_is_cancelled(wire, batch, model, job_seconds):
    file_id = upload(wire, "many.jsonl", batch_lines(model, 2000), "batch")["id"]
    made = create(wire, file_id)
    cancelled = wire.post(f"/batches/{made['id']}/cancel").json()
    assert cancelled["status"] in {"cancelling", "cancelled"}
    assert ended(wire, made, job_seconds)["status"] == "cancelled"
    wire.refused("POST", f"/batches/{made['id']}/cancel", 400)
