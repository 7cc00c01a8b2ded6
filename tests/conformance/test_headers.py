"""What every answer carries beside its body, and what any request may carry."""

from __future__ import annotations

import re

import pytest

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
    for kind in ("requests", "tokens"):
        assert int(headers[f"x-ratelimit-limit-{kind}"]) >= 0
        assert int(headers[f"x-ratelimit-remaining-{kind}"]) >= 0
        assert re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s))+", headers[f"x-ratelimit-reset-{kind}"])


@pytest.mark.endpoint("POST /files")
def test_the_same_idempotency_key_makes_one_file(wire):
    def send(content: bytes):
        files = {"file": ("once.txt", content)}
        headers = {"Idempotency-Key": "conformance-once"}
        return wire.http.post("files", data={"purpose": "user_data"}, files=files, headers=headers)

    first, second = send(b"x"), send(b"x")
    assert first.status_code == second.status_code == 200
    if first.json()["id"] != second.json()["id"]:
        pytest.skip("not there: Idempotency-Key")
    assert send(b"y").status_code == 400
