"""What every answer carries beside its body, and what any request may carry."""

from __future__ import annotations

import re
import uuid

import pytest

from conformance.calls import batch_body, upload
from conformance.sdk.rows import batch_lines

pytestmark = pytest.mark.endpoint("GET /models")

STAINLESS = {
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "0",
    "OpenAI-Organization": "org-any",
    "OpenAI-Project": "proj_any",
    "X-Client-Request-Id": "mine",
}


def test_every_answer_has_a_request_id_of_its_own(wire):
    ids = [wire.get("/models").headers["x-request-id"] for _ in range(2)]
    ids.append(wire.http.get("files/file-none").headers["x-request-id"])
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in ids)
    assert len(set(ids)) == 3


@pytest.mark.parametrize("name", ["openai-organization", "openai-processing-ms", "openai-version"])
def test_the_headers_of_the_real_service_are_there(wire, name):
    assert wire.get("/models").headers[name]


def test_headers_of_the_sdks_are_taken(wire):
    assert wire.get("/models", headers=STAINLESS).status_code == 200


@pytest.mark.endpoint("POST /chat/completions")
def test_rate_limits_are_told_with_an_answer(wire, model):
    body = {"model": model, "messages": [{"role": "user", "content": "Say 1"}], "max_tokens": 1}
    headers = wire.post("/chat/completions", json=body).headers
    if "x-ratelimit-limit-requests" not in headers:
        pytest.skip("not there: rate-limit headers")
    counts = [value for name, value in told(headers) if "-reset-" not in name]
    assert all(int(value) >= 0 for value in counts)
    resets = [value for name, value in told(headers) if "-reset-" in name]
    assert all(re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s))+", value) for value in resets)


def told(headers) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.startswith("x-ratelimit-")]


@pytest.mark.endpoint("POST /files")
def test_the_same_idempotency_key_makes_one_file(wire):
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def send(content: bytes):
        files = {"file": ("once.txt", content)}
        return wire.http.post("files", data={"purpose": "user_data"}, files=files, headers=key)

    first, second = send(b"x"), send(b"x")
    assert first.status_code == second.status_code == 200
    need_the_same(first.json(), second.json())
    assert send(b"y").status_code == 400


@pytest.mark.endpoint("POST /fine_tuning/jobs")
def test_the_same_idempotency_key_makes_one_job(wire, model, chat_file):
    options = {
        "json": {"model": model, "training_file": chat_file},
        "headers": {"Idempotency-Key": str(uuid.uuid4())},
    }
    first, second = (wire.post("/fine_tuning/jobs", **options).json() for _ in range(2))
    wire.post(f"/fine_tuning/jobs/{first['id']}/cancel")
    need_the_same(first, second)
    options["json"]["suffix"] = "other"
    assert "Idempotency-Key" in wire.refused("POST", "/fine_tuning/jobs", 400, **options)["message"]


@pytest.mark.endpoint("POST /batches")
def test_the_same_idempotency_key_makes_one_batch(wire, model):
    options = {
        "json": batch_body(upload(wire, "once.jsonl", batch_lines(model, 1), "batch")["id"]),
        "headers": {"Idempotency-Key": str(uuid.uuid4())},
    }
    first, second = (wire.post("/batches", **options).json() for _ in range(2))
    need_the_same(first, second)


def need_the_same(first: dict, second: dict) -> None:
    if first["id"] != second["id"]:
        pytest.skip("not there: Idempotency-Key")
    assert first == second
