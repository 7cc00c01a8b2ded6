"""Files over HTTP."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import time
from dataclasses import replace
from typing import get_args

import pytest
from api_calls import error_of, rows, upload
from fastapi.testclient import TestClient

from sintonia.api.app import create_app
from sintonia.api.schemas.files import Purpose
from sintonia.api.sweeping import sweep, sweeping, sweeps_of
from sintonia.domain.files import UPLOADABLE, FilePurpose
from tiny_models import wait_until

BOUNDARY = "xyz"


def form(*parts: tuple[str, str | None, bytes]) -> dict:
    """Return the arguments of a request with a form in exactly this order of parts."""
    body = b""
    for name, filename, content in parts:
        label = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        head = f"--{BOUNDARY}\r\nContent-Disposition: {label}\r\n\r\n"
        body += head.encode() + content + b"\r\n"
    body += f"--{BOUNDARY}--\r\n".encode()
    return {
        "content": body,
        "headers": {"content-type": f"multipart/form-data; boundary={BOUNDARY}"},
    }


def test_a_file_goes_in_and_comes_out_the_same(client):
    content = rows()
    file = upload(client, content)
    assert file["id"].startswith("file-")
    assert file == client.get(f"/v1/files/{file['id']}").json()
    assert {k: file[k] for k in ("object", "bytes", "filename", "purpose", "status")} == {
        "object": "file",
        "bytes": len(content),
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
    }
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "train.jsonl" in answer.headers["content-disposition"]
    deleted = client.delete(f"/v1/files/{file['id']}").json()
    assert deleted == {"id": file["id"], "object": "file", "deleted": True}
    assert error_of(client.get(f"/v1/files/{file['id']}"), 404, None, "id")


def test_the_purpose_may_come_before_or_after_the_file(client):
    file = ("file", "a.bin", b"\r\n--xy not the boundary \0")
    purpose = ("purpose", None, b"user_data")
    for order in ([purpose, file], [file, purpose]):
        answer = client.post("/v1/files", **form(*order))
        assert answer.json()["bytes"] == len(file[2])


def test_a_data_file_with_bad_rows_is_kept_and_says_what_is_wrong(client):
    content = rows(3) + b'{"messages": [{"role": "bot", "content": "x"}]}\nnot json\n'
    file = upload(client, content)
    assert file["status"] == "error"
    assert "Example 4" in file["status_details"]
    assert "Example 5" in file["status_details"]


def test_status_details_name_every_problem_up_to_fifty(client):
    details = upload(client, rows(3) + b"{x\n" * 60)["status_details"]
    first, *listed = details.splitlines()
    assert "57 more problems" in first
    assert [line.split()[1] for line in listed[:-1]] == [str(n) for n in range(4, 54)]
    assert listed[-1] == "And 10 more problems."


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x89PNG\r\n\x1a\n\0\0", b"\n\n"])
def test_what_is_no_jsonl_is_no_data_file(client, content):
    file = upload(client, content)
    assert file["status"] == "error"
    assert file["status_details"].startswith("Invalid file format.")


def test_a_short_data_file_is_accepted_since_it_may_be_for_validation(client):
    assert upload(client, rows(2))["status"] == "processed"


def test_other_purposes_are_not_looked_into(client):
    assert upload(client, b"\0\1", purpose="user_data")["status"] == "processed"


def test_a_file_over_the_limit_is_413_and_leaves_nothing(client, services):
    limit = services.settings.max_file_bytes
    assert upload(client, b"x" * limit, purpose="user_data")["bytes"] == limit
    files = {"file": ("big.jsonl", b"x" * (limit + 1))}
    answer = client.post("/v1/files", data={"purpose": "user_data"}, files=files)
    error_of(answer, 413, "file_too_large", "file")
    assert len(client.get("/v1/files").json()["data"]) == 1
    assert list((services.settings.home / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "code", "param"),
    [
        ([("purpose", None, b"fine-tune")], "missing_required_parameter", "file"),
        ([("file", "a", b"")], "missing_required_parameter", "purpose"),
        ([("file", "a", b""), ("purpose", None, b"fun")], "invalid_value", "purpose"),
        ([("file", "a", b""), ("purpose", None, b"fine-tune-results")], "invalid_value", "purpose"),
        ([("file", "a", b""), ("file", "b", b"")], None, "file"),
        (
            [
                ("file", "a", b""),
                ("purpose", None, b"batch"),
                ("expires_after[seconds]", None, b"3600"),
            ],
            "missing_required_parameter",
            "expires_after.anchor",
        ),
        (
            [("file", "a", b""), ("purpose", None, b"batch"), ("colour", None, b"red")],
            "unknown_parameter",
            "colour",
        ),
    ],
)
def test_a_bad_form_is_400(client, parts, code, param):
    error_of(client.post("/v1/files", **form(*parts)), 400, code, param)


@pytest.mark.parametrize("body", [b"", b"rubbish", b"--xyz\r\nbroken", b"--xyz\r\n\r\n--xyz"])
def test_a_damaged_form_is_400(client, body):
    headers = {"content-type": "multipart/form-data; boundary=xyz"}
    answer = client.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("end", [b"", b"\r\n--xy", b"\r\n--xyz", b"\r\n--xyz-"])
def test_half_a_form_is_not_half_a_file(client, end):
    head = b'--xyz\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
    body = head % (b"purpose", b"") + b"batch\r\n" + head % (b"file", b'; filename="a"') + b"abc"
    headers = {"content-type": "multipart/form-data; boundary=xyz"}
    answer = client.post("/v1/files", content=body + end, headers=headers)
    error_of(answer, 400, "invalid_form")
    assert client.get("/v1/files").json()["data"] == []
    whole = client.post("/v1/files", content=body + b"\r\n--xyz--", headers=headers)
    assert whole.json()["bytes"] == 3


def test_a_filename_is_only_a_label(client):
    name = '../../tmp/ü " ;.jsonl'
    files = {"file": (name, rows())}
    file = client.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()
    assert file["filename"].startswith("../../tmp/ü")
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert "\n" not in answer.headers["content-disposition"]
    assert answer.content == rows()


def test_lists_page_filter_and_order(client):
    ids = [upload(client)["id"] for _ in range(3)]
    other = upload(client, b"x", purpose="batch")["id"]
    page = client.get("/v1/files", params={"limit": 2, "purpose": "fine-tune"}).json()
    assert [file["id"] for file in page["data"]] == [ids[2], ids[1]]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, ids[2], ids[1])
    after = {"after": page["last_id"], "purpose": "fine-tune"}
    rest = client.get("/v1/files", params=after).json()
    assert [file["id"] for file in rest["data"]] == [ids[0]]
    assert rest["has_more"] is False
    oldest = client.get("/v1/files", params={"order": "asc", "limit": 1}).json()
    assert oldest["data"][0]["id"] == ids[0]
    assert client.get("/v1/files").json()["data"][0]["id"] == other
    error_of(client.get("/v1/files?after=file-x"), 400, "invalid_value", "after")
    error_of(client.get("/v1/files?order=up"), 400, "invalid_value", "order")


@pytest.mark.parametrize(
    "path", ["file-x", "file-x/content", "%2e%2e%2fsintonia.db", "train.jsonl"]
)
def test_an_unknown_file_is_404(client, path):
    assert client.get(f"/v1/files/{path}").status_code == 404
    assert "error" in client.get(f"/v1/files/{path}").json()


ANCHOR = ("expires_after[anchor]", None, b"created_at")


def life(seconds: bytes):
    return ("expires_after[seconds]", None, seconds)


def test_a_file_lives_as_long_as_is_asked_before_or_after_it(client):
    file, purpose = ("file", "a", b"x"), ("purpose", None, b"user_data")
    for parts in ([ANCHOR, life(b"3600"), purpose, file], [file, purpose, life(b"3600"), ANCHOR]):
        stored = client.post("/v1/files", **form(*parts)).json()
        assert stored["expires_at"] == stored["created_at"] + 3600
        assert client.get(f"/v1/files/{stored['id']}").json() == stored


@pytest.mark.parametrize(
    ("parts", "code", "param"),
    [
        ([ANCHOR, life(b"3599")], "integer_below_min_value", "expires_after.seconds"),
        ([ANCHOR, life(b"2592001")], "integer_above_max_value", "expires_after.seconds"),
        ([ANCHOR, life(b"soon")], "invalid_type", "expires_after.seconds"),
        ([ANCHOR], "missing_required_parameter", "expires_after.seconds"),
        (
            [("expires_after[anchor]", None, b"now"), life(b"3600")],
            "invalid_value",
            "expires_after.anchor",
        ),
        ([("expires_after", None, b"3600")], "invalid_type", "expires_after"),
    ],
)
def test_a_life_that_is_not_allowed_is_400(client, parts, code, param):
    parts = [("file", "a", b"x"), ("purpose", None, b"user_data"), *parts]
    error_of(client.post("/v1/files", **form(*parts)), 400, code, param)


def test_only_files_of_batches_expire_by_themselves(client):
    batch = upload(client, b"x", purpose="batch")
    assert batch["expires_at"] == batch["created_at"] + 30 * 24 * 3600
    for purpose in (p.value for p in UPLOADABLE if p != "batch"):
        assert "expires_at" not in upload(client, purpose=purpose)


def test_the_purposes_of_the_wire_are_those_of_the_facts():
    assert get_args(Purpose) == tuple(purpose.value for purpose in UPLOADABLE)


def test_an_expired_file_is_gone_at_once_and_its_bytes_later(client, services):
    kept, expired = upload(client)["id"], upload(client, purpose="batch")["id"]
    with sqlite3.connect(services.settings.home / "sintonia.db") as connection:
        connection.execute(
            "UPDATE files SET expires_at = ? WHERE id = ?", (int(time.time()), expired)
        )
    for path in (expired, f"{expired}/content"):
        error_of(client.get(f"/v1/files/{path}"), 404, None, "id")
    error_of(client.delete(f"/v1/files/{expired}"), 404, None, "id")
    assert [file["id"] for file in client.get("/v1/files").json()["data"]] == [kept]
    folder = services.settings.home / "files"
    assert (folder / expired).exists()
    sweep(sweeps_of(services))
    assert [path.name for path in folder.iterdir()] == [kept]


def test_a_sweep_that_fails_holds_up_no_other():
    swept = []

    def broken():
        raise ZeroDivisionError

    sweep({"broken": broken, "others": lambda: swept.append(1)})
    assert swept == [1]


def test_the_server_sweeps_by_itself(services):
    file = services.store.files.create(
        filename="a", purpose=FilePurpose.BATCH, content=[b"x"], life_seconds=1
    )
    path = services.settings.home / "files" / file.id

    async def sweep_for_a_while():
        async with sweeping(sweeps_of(services), every_seconds=0.05):
            await asyncio.to_thread(wait_until, lambda: not path.exists())

    asyncio.run(sweep_for_a_while())


def test_result_files_are_handed_out_in_base64_where_the_settings_want_it(services):
    content = b"step,train_loss\n" * 30_000 + b"x"
    made = {
        purpose: services.store.files.create(
            filename="step_metrics.csv", purpose=purpose, content=[content[:200_000]]
        ).id
        for purpose in (FilePurpose.FINE_TUNE_RESULTS, FilePurpose.USER_DATA)
    }
    settings = replace(services.settings, result_files="base64")
    app = create_app(replace(services, settings=settings))
    with TestClient(app, "http://127.0.0.1:8000") as client:
        result, other = (client.get(f"/v1/files/{file_id}/content") for file_id in made.values())
    assert base64.b64decode(result.content, validate=True) == content[:200_000]
    assert int(result.headers["content-length"]) == len(result.content)
    assert result.headers["content-disposition"] == 'attachment; filename="step_metrics.csv"'
    assert other.content == content[:200_000]
