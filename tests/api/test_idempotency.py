"""``Idempotency-Key``: sent again, a request gets its first answer and does nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_calls import error_of, rows, upload

from sintonia.api.idempotency import Once
from sintonia.errors import InsufficientStorage

KEY = {"idempotency-key": "key-1"}


def send_file(client, content: bytes = b"x", key: dict = KEY):
    files = {"file": ("a.txt", content)}
    return client.post("/v1/files", data={"purpose": "user_data"}, files=files, headers=key)


def test_a_file_that_is_sent_again_is_stored_once(client):
    first, second = send_file(client), send_file(client)  # each with a boundary of its own
    assert first.json() == second.json()
    assert second.headers["content-type"] == "application/json"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(client.get("/v1/files").json()["data"]) == 1
    assert send_file(client, key={}).json()["id"] != first.json()["id"]
    assert send_file(client, key={"idempotency-key": "key-2"}).json()["id"] != first.json()["id"]


def test_a_job_and_an_upload_that_are_sent_again_are_made_once(client):
    job = {"model": "tiny", "training_file": upload(client)["id"], "classification_n_classes": 2}
    draft = {"bytes": 1, "filename": "a", "mime_type": "b", "purpose": "batch"}
    for number, (path, body) in enumerate({"fine_tuning/jobs": job, "uploads": draft}.items()):
        key = {"idempotency-key": f"key {number}"}
        first, second = (client.post(f"/v1/{path}", json=body, headers=key) for _ in range(2))
        assert first.status_code == 200, first.text
        assert first.json() == second.json()
        ignored = "sintonia-ignored-parameters"
        assert first.headers.get(ignored) == second.headers.get(ignored)
    assert len(client.get("/v1/fine_tuning/jobs").json()["data"]) == 1


def test_another_request_under_the_same_key_is_400(client):
    send_file(client)
    for other in (
        send_file(client, b"y"),
        client.post("/v1/uploads", json={"purpose": "batch"}, headers=KEY),
    ):
        assert "another request" in error_of(other, 400, "idempotency_key_reused")


def test_a_refusal_is_an_answer_too(client):
    body = {"model": "tiny", "training_file": "file-none"}
    first, second = (client.post("/v1/fine_tuning/jobs", json=body, headers=KEY) for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert first.status_code == 400


def test_two_at_once_get_one_answer(client):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send_file(client, rows(500)), range(4)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/files").json()["data"]) == 1


def test_a_fault_of_ours_does_not_use_up_the_key(client, services):
    once = Once("key-1", "POST /v1/files", services, client.app.state.key_locks)

    def full():
        raise InsufficientStorage("The disk is full.")

    with pytest.raises(InsufficientStorage):
        asyncio.run(once.answer(["said"], full))
    assert services.store.kept_answers.get("key-1") is None
    assert send_file(client).status_code == 200


def test_after_a_day_the_key_is_new_again(client, services):
    first = send_file(client).json()
    with sqlite3.connect(services.settings.home / "sintonia.db") as connection:
        connection.execute("UPDATE kept_answers SET expires_at = expires_at - 24 * 3600")
    assert send_file(client, b"other").json()["id"] != first["id"]
    assert send_file(client, b"other").json()["bytes"] == 5


@pytest.mark.parametrize("key", ["x" * 256, "a\tb"])
def test_a_key_that_is_no_key_is_400(client, key):
    error_of(send_file(client, key={"idempotency-key": key}), 400, "invalid_value")


def test_a_key_that_nobody_uses_is_not_kept_in_memory(client):
    send_file(client)
    locks = client.app.state.key_locks
    assert not locks._locks
    assert not locks._num_users
