"""The API as a process of its own, beside the engine's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tiny_models import wait_until


@contextmanager
def child(module: str, home: Path, *arguments: str):
    """Run a module of ours until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments, "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SINTONIA_HOME": str(home), "SINTONIA_ENGINE": "echo"},
    )
    try:
        yield process
        process.stdin.close()
        output = process.stdout.read().decode()
        assert process.wait(timeout=20) == 0, output
        assert module != "sintonia.api" or output == "", "the log of a quiet run is empty"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_the_process_serves_until_its_input_closes(home, port):
    url = f"http://127.0.0.1:{port}"
    body = {"model": "tiny", "prompt": "abc"}
    with child("sintonia.api", home, "--host", "127.0.0.1", "--port", str(port)):
        wait_until(lambda: answers(url))
        for path, method in (("/health/ready", "GET"), ("/v1/completions", "POST")):
            answer = httpx.request(method, url + path, json=body if method == "POST" else None)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "engine_unavailable"
            assert int(answer.headers["retry-after"]) > 0
        with child("sintonia.generation.host", home):
            wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
            answer = httpx.post(f"{url}/v1/completions", json=body)
            assert answer.json()["choices"][0]["text"] == "abc"
            with httpx.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}) as s:
                assert s.read().decode().endswith("data: [DONE]\n\n")
    assert not answers(url)


NO_HTTP = [
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\0evil\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"garbage\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: many\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


def test_what_is_no_http_gets_the_envelope_and_the_server_lives_on(home, port):
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "sintonia.api", "--port", str(port)]
    environment = {**os.environ, "SINTONIA_HOME": str(home), "SINTONIA_ENGINE": "echo"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: answers(url))
            for request in NO_HTTP:
                head, _, body = exchange(port, request).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 400 "), request
                assert b"x-request-id: req_" in head
                assert json.loads(body)["error"]["code"] == "invalid_http"
            assert answers(url)
        finally:
            process.terminate()
            log = process.stderr.read()
    assert b"Traceback" not in log


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_setting_that_cannot_be_understood_is_told_without_a_stack(home):
    (home / "sintonia.toml").write_text("colour = 1\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "sintonia.api"],
        env={**os.environ, "SINTONIA_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("sintonia.toml has an unknown setting 'colour'")
