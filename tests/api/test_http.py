"""What holds for every request: the envelope, the headers, the guard of the loopback."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from api_calls import error_of

import sintonia.api
from sintonia.api.bodies import MAX_JSON_BYTES

CHAT = "/v1/chat/completions"


def test_every_answer_carries_openais_headers(client):
    answer = client.get("/v1/models")
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["openai-organization"] == "personal"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["x-request-id"] != client.get("/v1/models").headers["x-request-id"]


def test_the_server_is_alive_and_ready(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/health/ready").json()["status"] == "ready"


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/files/", "/v1/fine_tuning", "/docs"])
def test_an_unknown_url_gets_the_envelope(client, path):
    assert f"GET {path}" in error_of(client.get(path), 404, "unknown_url")


def test_a_wrong_method_gets_the_envelope_and_the_right_ones(client):
    answer = client.put("/v1/files")
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"\xff\xfe{}",
        b'{"user": "\\ud800"}',
        b'{"user": "a\\u0000b"}',
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a": 1' + b"0" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/fine_tuning/jobs"])
def test_a_body_that_is_no_json_object_is_400(client, path, body):
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    error_of(answer, 400, "invalid_json")


def test_a_body_of_another_type_is_refused(client):
    answer = client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    error_of(answer, 400, "invalid_content_type")
    answer = client.post("/v1/files", json={"purpose": "fine-tune"})
    error_of(answer, 400, "invalid_content_type")


def test_a_json_body_over_the_limit_is_413(client):
    body = b'{"user": "' + b"x" * MAX_JSON_BYTES + b'"}'
    answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    error_of(answer, 413, "body_too_large")


def test_a_fault_of_ours_shows_nothing_of_the_inside(client, services):
    services.store.close()
    (services.settings.home / "sintonia.db").unlink()
    answer = client.get("/v1/fine_tuning/jobs")
    assert answer.status_code == 500
    message = answer.json()["error"]["message"]
    assert "Traceback" not in answer.text
    assert str(services.settings.home) not in answer.text
    assert "log" in message
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000"]
)
def test_loopback_hosts_are_served(client, host):
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil", "0.0.0.0", "a/?x=127.0.0.1", ""],
)
def test_other_hosts_are_refused(client, host):
    error_of(client.get("/health", headers={"host": host}), 400, "invalid_host")


def test_pages_of_other_sites_are_refused(client):
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        answer = client.get("/v1/models", headers={"origin": origin})
        error_of(answer, 403, "invalid_origin")
    own = {"origin": "http://localhost:3000"}
    assert client.get("/v1/models", headers=own).status_code == 200


def test_any_key_is_accepted(client):
    headers = {"authorization": "Bearer sk-whatever", "openai-organization": "org-x"}
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "integer_below_min_value"),
        ("limit=101", "integer_above_max_value"),
        ("limit=many", "invalid_type"),
    ],
)
def test_a_bad_limit_is_400(client, query, code):
    error_of(client.get(f"/v1/fine_tuning/jobs?{query}"), 400, code, "limit")


def test_the_package_has_no_sql_and_loads_no_torch():
    for path in Path(sintonia.api.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith(("sqlalchemy", "torch")) for name in names), path
    code = "import sintonia.api.__main__, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
