"""Uploads: a file in parts."""

from __future__ import annotations

import hashlib

import pytest

from conformance.sdk.rows import chat_rows

CONTENT = chat_rows()
BODY = {
    "bytes": len(CONTENT),
    "filename": "parts.jsonl",
    "mime_type": "text/jsonl",
    "purpose": "fine-tune",
}


@pytest.fixture
def upload(wire):
    return wire.post("/uploads", json=BODY).json()


def add_part(wire, upload_id: str, data: bytes, **options):
    return wire.post(f"/uploads/{upload_id}/parts", files={"data": ("upload", data)}, **options)


@pytest.mark.endpoint("POST /uploads")
def test_an_upload_begins_pending_and_expires_after_an_hour(upload):
    assert upload["id"].startswith("upload_")
    assert upload["status"] == "pending"
    assert upload["expires_at"] == upload["created_at"] + 3600
    assert upload.get("file") is None


@pytest.mark.endpoint("POST /uploads/{upload_id}/parts")
def test_a_part_has_an_id_of_its_own(wire, upload):
    part = add_part(wire, upload["id"], CONTENT[:100]).json()
    assert part["id"].startswith("part_")
    assert part["upload_id"] == upload["id"]


@pytest.mark.endpoint("POST /uploads/{upload_id}/complete")
def test_parts_become_a_file_in_the_order_that_is_given(wire, upload):
    second = add_part(wire, upload["id"], CONTENT[100:]).json()["id"]
    first = add_part(wire, upload["id"], CONTENT[:100]).json()["id"]
    path = f"/uploads/{upload['id']}/complete"
    whole = wire.post(path, json={"part_ids": [first, second]}).json()
    assert whole["status"] == "completed"
    file = whole["file"]
    assert (file["filename"], file["bytes"]) == ("parts.jsonl", len(CONTENT))
    assert wire.get(f"/files/{file['id']}/content").content == CONTENT


@pytest.mark.endpoint("POST /uploads/{upload_id}/complete")
def test_parts_that_are_not_the_whole_are_refused(wire, upload):
    part = add_part(wire, upload["id"], CONTENT[:100]).json()["id"]
    path = f"/uploads/{upload['id']}/complete"
    error = wire.refused("POST", path, 400, json={"part_ids": [part]})
    assert error["type"] == "invalid_request_error"


@pytest.mark.endpoint("POST /uploads/{upload_id}/complete")
def test_the_file_has_the_sum_that_was_told_and_expires_as_was_asked(wire):
    after = {"anchor": "created_at", "seconds": 7200}
    upload_id = wire.post("/uploads", json={**BODY, "expires_after": after}).json()["id"]
    part = add_part(wire, upload_id, CONTENT).json()["id"]
    path = f"/uploads/{upload_id}/complete"
    wrong = {"part_ids": [part], "md5": "0" * 32}
    assert wire.refused("POST", path, 400, json=wrong)["param"] == "md5"
    right = {"part_ids": [part], "md5": hashlib.md5(CONTENT).hexdigest()}
    file = wire.post(path, json=right).json()["file"]
    assert file["expires_at"] == file["created_at"] + 7200


@pytest.mark.endpoint("POST /uploads/{upload_id}/complete")
def test_a_part_of_nothing_is_refused(wire, upload):
    path = f"/uploads/{upload['id']}/complete"
    assert wire.refused("POST", path, 400, json={"part_ids": ["part_none"]})["message"]


@pytest.mark.endpoint("POST /uploads/{upload_id}/parts")
def test_an_unknown_upload_is_not_found(wire):
    error = add_part(wire, "upload_none", b"a", expect=404).json()["error"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.endpoint("POST /uploads/{upload_id}/cancel")
def test_a_cancelled_upload_takes_no_more_parts(wire, upload):
    cancelled = wire.post(f"/uploads/{upload['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    add_part(wire, upload["id"], CONTENT, expect=400)
