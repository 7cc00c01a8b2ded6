"""Files: made, listed page by page, read back, deleted."""

from __future__ import annotations

import re

import pytest

from conformance.calls import upload
from conformance.sdk.rows import chat_rows

pytestmark = pytest.mark.endpoint("POST /files")


def test_an_upload_is_processed_at_once(wire):
    content = chat_rows()
    file = upload(wire, "train.jsonl", content)
    assert re.fullmatch(r"file-[A-Za-z0-9]{22,}", file["id"])
    assert (file["filename"], file["bytes"]) == ("train.jsonl", len(content))
    assert (file["purpose"], file["status"]) == ("fine-tune", "processed")


@pytest.mark.parametrize("purpose", ["assistants", "batch", "vision", "user_data", "evals"])
def test_every_purpose_is_taken(wire, purpose):
    assert upload(wire, "some.jsonl", chat_rows(), purpose)["purpose"] == purpose


def expiring(seconds: int, anchor: str = "created_at") -> dict:
    fields = {"expires_after[anchor]": anchor, "expires_after[seconds]": str(seconds)}
    return {"data": {"purpose": "user_data", **fields}, "files": {"file": ("a.txt", b"a")}}


def test_a_file_can_expire(wire):
    file = wire.post("/files", **expiring(3600)).json()
    assert file["expires_at"] == file["created_at"] + 3600
    assert wire.get(f"/files/{file['id']}").json()["expires_at"] == file["expires_at"]


@pytest.mark.parametrize(
    "wrong", [expiring(3599), expiring(2592001), expiring(3600, "last_active_at")], ids=str
)
def test_an_expiry_outside_its_bounds_is_refused(wire, wrong):
    assert wire.refused("POST", "/files", 400, **wrong)["param"].startswith("expires_after")


def test_files_of_batches_expire_after_30_days(wire):
    file = upload(wire, "batch.jsonl", b"{}", "batch")
    assert file["expires_at"] == file["created_at"] + 30 * 24 * 3600


def test_a_purpose_that_nobody_knows_is_refused(wire):
    files = {"file": ("a.jsonl", chat_rows())}
    error = wire.refused("POST", "/files", 400, data={"purpose": "tuning"}, files=files)
    assert error["param"] == "purpose"


def test_a_form_without_a_file_is_refused(wire):
    error = wire.refused(
        "POST", "/files", 400, data={"purpose": "batch"}, files={"other": ("a", b"a")}
    )
    assert error["type"] == "invalid_request_error"


@pytest.mark.endpoint("GET /files")
def test_files_are_listed_newest_first_and_page_by_page(wire):
    made = [upload(wire, f"{number}.txt", b"x", "vision")["id"] for number in range(3)]
    listed = [file["id"] for file in wire.pages("/files", purpose="vision", limit=2)]
    assert listed[:3] == made[::-1]
    assert len(listed) == len(set(listed))
    page = wire.get("/files", params={"purpose": "vision", "limit": 2}).json()
    assert page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (made[2], made[1])


@pytest.mark.endpoint("GET /files")
def test_files_are_listed_oldest_first_when_asked(wire):
    made = [upload(wire, f"{number}.txt", b"x", "evals")["id"] for number in range(2)]
    listed = [f["id"] for f in wire.get("/files", params={"order": "asc"}).json()["data"]]
    assert listed.index(made[0]) < listed.index(made[1])


@pytest.mark.endpoint("GET /files")
@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 10001}, {"order": "up"}])
def test_a_query_outside_its_bounds_is_refused(wire, query):
    assert wire.refused("GET", "/files", 400, params=query)["param"] == next(iter(query))


@pytest.mark.endpoint("GET /files")
def test_an_empty_list_has_nothing_first_or_last(wire):
    page = wire.get("/files", params={"purpose": "assistants_output"}).json()
    assert (page["data"], page["has_more"]) == ([], False)
    assert not page["first_id"]
    assert not page["last_id"]


@pytest.mark.endpoint("GET /files/{file_id}")
def test_a_file_is_retrieved_as_it_was_made(wire):
    file = upload(wire, "same.jsonl", chat_rows())
    assert wire.get(f"/files/{file['id']}").json() == file


@pytest.mark.endpoint("GET /files/{file_id}")
def test_an_unknown_file_is_not_found(wire):
    error = wire.refused("GET", "/files/file-none", 404)
    assert error["message"] == "No such File object: file-none"
    assert (error["type"], error["code"]) == ("invalid_request_error", None)


@pytest.mark.endpoint("GET /files/{file_id}/content")
def test_content_is_read_back_to_the_byte(wire):
    content = chat_rows(3) + "é\n".encode()
    file = upload(wire, "bytes.txt", content, "user_data")
    assert wire.get(f"/files/{file['id']}/content").content == content


@pytest.mark.endpoint("DELETE /files/{file_id}")
def test_a_deleted_file_is_gone(wire):
    file = upload(wire, "gone.txt", b"x", "user_data")
    deleted = wire.delete(f"/files/{file['id']}").json()
    assert deleted == {"id": file["id"], "object": "file", "deleted": True}
    wire.refused("GET", f"/files/{file['id']}", 404)
    wire.refused("DELETE", f"/files/{file['id']}", 404)
