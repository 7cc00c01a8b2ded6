"""The client against a real HTTP server that speaks OpenAI's wire."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sintonia import cli
from sintonia.cli.client import Client, server_url
from sintonia.errors import InvalidValue, RemoteError, ServerUnreachable

ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {}


def answer(path: str, status: int, body: Any, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    ANSWERS[path] = (status, headers, content)


class Wire(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, content = ANSWERS[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wire) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    ANSWERS.clear()
    with Client(f"{url}/v1/") as made:
        yield made


def test_pages_are_followed_to_the_last(client):
    first = {"data": [{"id": "b"}, {"id": "a"}], "has_more": True}
    answer("/v1/fine_tuning/jobs?limit=100", 200, first)
    answer(
        "/v1/fine_tuning/jobs?limit=100&after=a", 200, {"data": [{"id": "0"}], "has_more": False}
    )

    assert [job["id"] for job in client.jobs()] == ["b", "a", "0"]


def test_an_error_keeps_the_servers_words(client):
    envelope = {"message": "No such File object: x", "type": "i", "param": "id", "code": None}
    answer("/v1/files/x", 404, {"error": envelope})

    with pytest.raises(RemoteError, match=r"^No such File object: x$") as problem:
        client.file("x")

    assert (problem.value.http_status, problem.value.param) == (404, "id")


def test_an_error_in_an_opened_stream_is_read_too(client):
    envelope = {"message": "The weights are being fetched.", "code": "model_not_ready"}
    answer("/v1/chat/completions", 503, {"error": envelope}, Retry_After="7")

    with pytest.raises(RemoteError, match="being fetched") as problem:
        list(client.chat({"model": "m"}))

    assert (problem.value.code, problem.value.retry_after_seconds) == ("model_not_ready", 7.0)


def test_the_text_of_a_stream_is_yielded_and_an_error_inside_it_raised(client):
    def event(data: Any) -> bytes:
        return f"data: {json.dumps(data)}\n\n".encode()

    words = [event({"choices": [{"delta": {"content": word}}]}) for word in ("Olá", " ", "1\n")]
    role = event({"choices": [{"delta": {"role": "assistant"}}]})
    broken = event({"error": {"message": "The engine went away.", "code": None}})
    answer("/v1/chat/completions", 200, role + b"".join(words) + b"data: [DONE]\n\n")
    assert "".join(client.chat({})) == "Olá 1\n"

    answer("/v1/chat/completions", 200, words[0] + broken)
    texts = client.chat({})
    assert next(texts) == "Olá"
    with pytest.raises(RemoteError, match="went away"):
        next(texts)


@pytest.mark.parametrize("status", [200, 404, 502])
def test_what_is_no_sintonia_server_is_named_as_such(client, status):
    answer("/v1/models", status, b"<html>nginx</html>")

    with pytest.raises(RemoteError, match="address of a Sintonia server"):
        client.models()


def test_a_silent_address_says_how_to_start_a_server():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with Client(f"http://127.0.0.1:{port}") as client:
        assert not client.is_alive()
        with pytest.raises(ServerUnreachable, match=r"No server answers .* `sintonia serve`"):
            client.models()


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"<html>nginx</html>", {}),
        (302, b"", {"Location": "/login"}),
        (404, b"<html>nginx</html>", {}),
        (200, {}, {}),
        (200, [], {}),
        (200, {"data": 5}, {}),
        (200, b"no gzip", {"Content_Encoding": "gzip"}),
    ],
)
def test_a_command_refuses_a_named_server_that_is_not_sintonia(
    url, home, capfd, status, body, headers
):
    ANSWERS.clear()
    answer("/v1/fine_tuning/jobs?limit=1", status, body, **headers)
    for command in (["jobs", "list"], ["jobs", "follow", "ftjob-x"], ["chat", "m", "hello"]):
        assert cli.main([*command, "--server", url]) == 1
        err = capfd.readouterr().err
        assert "address of a Sintonia server?" in err
        assert "Sintonia itself" not in err


def test_a_named_server_that_is_silent_is_told_and_not_waited_for(home, capfd):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert cli.main(["jobs", "follow", "ftjob-x", "--server", address]) == 1
    assert "No server answers at" in capfd.readouterr().err


@pytest.mark.parametrize("event", [b"{broken", b"[]", b"5"])
def test_a_broken_event_of_a_stream_is_told_in_words(client, event):
    answer("/v1/chat/completions", 200, b"data: " + event + b"\n\n")
    with pytest.raises(RemoteError, match="broken event"):
        list(client.chat({}))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "",
        "http://",
        "http://[::1",
        "http://x:port",
        "http://x:99999",
        "http://\u2603.x:1",
        "http://a\x01b",
    ],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(InvalidValue, match="must be a URL"):
        server_url(url)
