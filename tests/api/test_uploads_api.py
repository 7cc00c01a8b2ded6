"""Files in parts over HTTP."""

from __future__ import annotations

import hashlib
import sqlite3
import time

import pytest
from api_calls import error_of, rows

from sintonia.api.sweeping import sweep, sweeps_of
from sintonia.domain import uploads as facts
from sintonia.domain.files import FilePurpose
from sintonia.domain.uploads import UploadDraft


def begin(client, size_bytes: int, purpose: str = "user_data", **more) -> dict:
    body = {"bytes": size_bytes, "filename": "train.jsonl", "mime_type": "text/jsonl"}
    answer = client.post("/v1/uploads", json={**body, "purpose": purpose, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def send(client, upload: dict, data: bytes):
    return client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("upload", data)})


def complete(client, upload: dict, *part_ids: str, **more):
    body = {"part_ids": list(part_ids), **more}
    return client.post(f"/v1/uploads/{upload['id']}/complete", json=body)


def stored_names(services) -> set[str]:
    return {path.name for path in (services.settings.home / "files").iterdir()}


def test_parts_become_a_file_in_the_order_that_is_named(client, services):
    upload = begin(client, 6)
    assert upload["id"].startswith("upload_")
    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    assert upload["expires_at"] == upload["created_at"] + 3600
    second = send(client, upload, b"def").json()
    first = send(client, upload, b"abc").json()
    assert first["id"].startswith("part_")
    assert (first["object"], first["upload_id"]) == ("upload.part", upload["id"])
    md5 = hashlib.md5(b"abcdef").hexdigest()
    done = complete(client, upload, first["id"], second["id"], md5=md5).json()
    assert (done["status"], done["id"]) == ("completed", upload["id"])
    file = done["file"]
    assert file == client.get(f"/v1/files/{file['id']}").json()
    assert (file["bytes"], file["filename"]) == (6, "train.jsonl")
    assert client.get(f"/v1/files/{file['id']}/content").content == b"abcdef"
    assert stored_names(services) == {file["id"]}


def test_a_file_for_tuning_is_checked_as_an_uploaded_one(client):
    for content, status in ((rows(), "processed"), (rows(2) + b"not json\n", "error")):
        upload = begin(client, len(content), "fine-tune")
        part = send(client, upload, content).json()
        file = complete(client, upload, part["id"]).json()["file"]
        assert file["status"] == status
        assert ("Example 3" in file.get("status_details", "")) == (status == "error")


def test_a_file_may_be_larger_in_parts_than_at_once(client, services):
    half = b"x" * services.settings.max_file_bytes
    upload = begin(client, 2 * len(half))
    part_ids = [send(client, upload, half).json()["id"] for _ in range(2)]
    assert complete(client, upload, *part_ids).json()["file"]["bytes"] == 2 * len(half)


def test_the_file_lives_as_long_as_the_upload_asked_for(client):
    upload = begin(client, 1, expires_after={"anchor": "created_at", "seconds": 7200})
    file = complete(client, upload, send(client, upload, b"x").json()["id"]).json()["file"]
    assert file["expires_at"] == file["created_at"] + 7200


def test_what_does_not_make_the_announced_file_is_refused_and_may_be_mended(client, services):
    upload, other = begin(client, 6), begin(client, 3)
    first, second = (send(client, upload, data).json()["id"] for data in (b"abc", b"def"))
    foreign = send(client, other, b"xyz").json()["id"]
    wrong = ([first], [first, foreign], [first, first], ["part_none"])
    for part_ids in wrong:
        error_of(complete(client, upload, *part_ids), 400, "invalid_value", "part_ids")
    answer = complete(client, upload, first, second, md5="0" * 32)
    error_of(answer, 400, "invalid_value", "md5")
    error_of(complete(client, upload), 400, "array_below_min_length", "part_ids")
    assert stored_names(services) == {first, second, foreign}
    assert complete(client, upload, first, second).json()["status"] == "completed"


def test_asking_again_for_completion_gets_the_same_file(client):
    upload = begin(client, 1)
    part = send(client, upload, b"x").json()["id"]
    first, second = (complete(client, upload, part).json() for _ in range(2))
    assert first == second
    assert len(client.get("/v1/files").json()["data"]) == 1
    error_of(complete(client, upload, "part_other"), 400, None, "upload_id")


def test_an_upload_that_has_ended_takes_no_more(client, services):
    done, cancelled = begin(client, 1), begin(client, 1)
    part = send(client, done, b"x").json()["id"]
    complete(client, done, part)
    lost = send(client, cancelled, b"x").json()["id"]
    for _ in range(2):
        answer = client.post(f"/v1/uploads/{cancelled['id']}/cancel")
        assert answer.json()["status"] == "cancelled"
    assert lost not in stored_names(services)
    assert "completed" in error_of(send(client, done, b"y"), 400, None, "upload_id")
    assert "cancelled" in error_of(send(client, cancelled, b"y"), 400, None, "upload_id")
    error_of(client.post(f"/v1/uploads/{done['id']}/cancel"), 400, None, "upload_id")
    error_of(complete(client, cancelled, lost), 400, None, "upload_id")


def test_an_unknown_upload_is_404(client):
    upload = {"id": "upload_none"}
    error_of(send(client, upload, b"x"), 404, None, "upload_id")
    error_of(complete(client, upload, "part_x"), 404, None, "upload_id")
    error_of(client.post("/v1/uploads/upload_none/cancel"), 404, None, "upload_id")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"bytes": 0}, "integer_below_min_value", "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "integer_above_max_value", "bytes"),
        ({"bytes": "6"}, "invalid_type", "bytes"),
        ({"purpose": "fine-tune-results"}, "invalid_value", "purpose"),
        ({"filename": None}, "missing_required_parameter", "filename"),
        ({"mime_type": None}, "missing_required_parameter", "mime_type"),
        ({"colour": "red"}, "unknown_parameter", "colour"),
        (
            {"expires_after": {"anchor": "created_at", "seconds": 3599}},
            "integer_below_min_value",
            "expires_after.seconds",
        ),
    ],
)
def test_a_bad_announcement_is_400(client, change, code, param):
    body = {"bytes": 6, "filename": "a", "mime_type": "text/jsonl", "purpose": "batch"}
    error_of(client.post("/v1/uploads", json={**body, **change}), 400, code, param)


def test_a_part_is_one_file_of_at_most_64_mb(client):
    upload = begin(client, 6)
    path = f"/v1/uploads/{upload['id']}/parts"
    missing = client.post(path, files={"file": ("a", b"x")})
    assert "'data'" in error_of(missing, 400, "missing_required_parameter", "data")
    more = client.post(path, files={"data": ("a", b"x")}, data={"colour": "red"})
    error_of(more, 400, "unknown_parameter", "colour")
    assert facts.MAX_PART_BYTES == 64 * 1024 * 1024


def test_a_part_over_the_limit_is_413(client, services):
    upload = begin(client, 6)
    answer = send(client, upload, b"x" * (facts.MAX_PART_BYTES + 1))
    error_of(answer, 413, "file_too_large", "data")
    assert stored_names(services) == set()


def test_an_expired_upload_is_refused_at_once_and_swept_later(client, services):
    uploads = services.store.uploads
    draft = UploadDraft("a", FilePurpose.USER_DATA, 1, "text/plain")
    upload = uploads.create(draft)
    part = uploads.add_part(upload.id, [b"x"])
    age(services, "uploads", upload.id, 3601)
    assert "expired" in error_of(
        complete(client, {"id": upload.id}, part.id), 400, None, "upload_id"
    )
    sweep(sweeps_of(services))
    assert stored_names(services) == {part.id}, "one that is being completed still needs it"
    age(services, "uploads", upload.id, 7201)
    sweep(sweeps_of(services))
    assert stored_names(services) == set()
    assert uploads.get(upload.id).status == "expired"


def age(services, table: str, row_id: str, seconds: int) -> None:
    """Let a row have been made some time ago."""
    with sqlite3.connect(services.settings.home / "sintonia.db") as connection:
        expires_at = int(time.time()) + 3600 - seconds
        change = f"UPDATE {table} SET expires_at = ? WHERE id = ?"
        connection.execute(change, (expires_at, row_id))
