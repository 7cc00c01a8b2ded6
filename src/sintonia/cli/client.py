"""The command line's only way to a server: OpenAI's wire over HTTP.

Answers are the API's own JSON objects. Every failure is a ``RemoteError`` (the server said
no) or a ``ServerUnreachable`` (nobody answered); httpx's errors end here.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from sintonia.errors import InvalidValue, RemoteError, ServerUnreachable

Json = dict[str, Any]

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
"""Seconds."""
CHAT_TIMEOUT = httpx.Timeout(300.0, connect=5.0)
"""The first token may have to wait for the model to be loaded."""
DISTILL_TIMEOUT = httpx.Timeout(None, connect=5.0)
"""Every stored completion may have to be read."""
CHECK_TIMEOUT = httpx.Timeout(15.0, connect=5.0)
"""An address that is no server at all is told soon."""
NOT_OURS = "Is this the address of a Sintonia server?"


class Client:
    """One server, named by its base URL with or without ``/v1``."""

    def __init__(self, url: str, *, timeout: httpx.Timeout = TIMEOUT) -> None:
        self.url = server_url(url)
        # A proxy of the environment is for other machines: it cannot reach this one's loopback.
        self._http = httpx.Client(
            base_url=self.url, timeout=timeout, trust_env=not is_loopback(urlsplit(self.url))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def is_alive(self, path: str = "/health") -> bool:
        """Tell whether the server answers 200 at ``path``."""
        try:
            return self._http.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def check(self) -> None:
        """Raise ``ServerUnreachable`` or ``RemoteError`` unless a Sintonia server answers."""
        query = {"limit": 1}
        page = self._json("GET", "fine_tuning/jobs", params=query, timeout=CHECK_TIMEOUT)
        if not isinstance(page.get("data"), list):
            raise RemoteError(
                f"The server at {self.url} does not answer as Sintonia does. {NOT_OURS}",
                http_status=200,
            )

    def upload(self, path: Path, purpose: str = "fine-tune") -> Json:
        """Upload a file and return the file object."""
        with path.open("rb") as content:
            return self._json(
                "POST", "files", data={"purpose": purpose}, files={"file": (path.name, content)}
            )

    def files(self) -> Iterator[Json]:
        """Yield all files, newest first."""
        return self._pages("files", {"limit": 1000})

    def file(self, file_id: str) -> Json:
        """Return one file object."""
        return self._json("GET", f"files/{_part(file_id)}")

    def download(self, file_id: str) -> Iterator[bytes]:
        """Yield the content of a file in blocks."""
        with self._stream("GET", f"files/{_part(file_id)}/content") as answer:
            yield from answer.iter_bytes()

    def delete_file(self, file_id: str) -> None:
        """Delete a file."""
        self._json("DELETE", f"files/{_part(file_id)}")

    def create_job(self, request: Mapping[str, Any]) -> Json:
        """Create a fine-tuning job and return it."""
        return self._json("POST", "fine_tuning/jobs", json=request)

    def jobs(self) -> Iterator[Json]:
        """Yield all jobs, newest first."""
        return self._pages("fine_tuning/jobs", {"limit": 100})

    def job(self, job_id: str) -> Json:
        """Return one job."""
        return self._json("GET", f"fine_tuning/jobs/{_part(job_id)}")

    def events(self, job_id: str) -> Iterator[Json]:
        """Yield a job's events, newest first."""
        return self._pages(f"fine_tuning/jobs/{_part(job_id)}/events", {"limit": 100})

    def checkpoints(self, job_id: str) -> Iterator[Json]:
        """Yield a job's checkpoints, newest first."""
        return self._pages(f"fine_tuning/jobs/{_part(job_id)}/checkpoints", {"limit": 100})

    def cancel_job(self, job_id: str) -> Json:
        """Cancel a job and return it."""
        return self._json("POST", f"fine_tuning/jobs/{_part(job_id)}/cancel")

    def pause_job(self, job_id: str) -> Json:
        """Pause a running job and return it."""
        return self._json("POST", f"fine_tuning/jobs/{_part(job_id)}/pause")

    def resume_job(self, job_id: str) -> Json:
        """Let a paused job go on and return it."""
        return self._json("POST", f"fine_tuning/jobs/{_part(job_id)}/resume")

    def distill(self, request: Mapping[str, Any]) -> Json:
        """Turn stored completions into files, and begin a job when asked to."""
        return self._json("POST", "sintonia/distillations", json=request, timeout=DISTILL_TIMEOUT)

    def models(self) -> list[Json]:
        """Return all models that can be asked."""
        return list(self._json("GET", "models")["data"])

    def delete_model(self, name: str) -> None:
        """Delete a tuned model."""
        self._json("DELETE", f"models/{_part(name)}")

    def chat(self, request: Mapping[str, Any]) -> Iterator[str]:
        """Send a chat request; yield the answer's text as it comes."""
        body = {**request, "stream": True}
        with self._stream("POST", "chat/completions", json=body, timeout=CHAT_TIMEOUT) as answer:
            for line in answer.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                yield from _delta(_event(data))

    def _json(self, method: str, path: str, **content: Any) -> Json:
        with self._reached():
            answer = self._http.request(method, f"v1/{path}", **content)
        _raise_for(answer)
        return _object(answer)

    @contextmanager
    def _stream(self, method: str, path: str, **content: Any) -> Iterator[httpx.Response]:
        with (
            self._reached(),
            self._http.stream(method, f"v1/{path}", **content) as answer,
        ):
            if not answer.is_success:
                answer.read()
            _raise_for(answer)
            yield answer

    def _pages(self, path: str, query: Mapping[str, Any]) -> Iterator[Json]:
        after: dict[str, str] = {}
        while True:
            page = self._json("GET", path, params={**query, **after})
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as problem:
            raise ServerUnreachable(_why(self.url, problem)) from None


def server_url(url: str) -> str:
    """Return ``url`` without a trailing slash and ``/v1``; raise ``InvalidValue`` for no URL."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):  # no number as its port, no such host name, ...
        is_url = False
    if not is_url:
        raise InvalidValue(
            f"Server {url}: must be a URL such as http://127.0.0.1:8000.", param="server"
        )
    return url.rstrip("/").removesuffix("/v1")


def is_loopback(parts: Any) -> bool:
    """Tell whether a split URL names this machine's loopback."""
    return is_loopback_host(parts.hostname or "")


def is_loopback_host(host: str) -> bool:
    """Tell whether a host can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _part(text: str) -> str:
    """Return a path segment; a tuned model's colons stay as they are."""
    return quote(text, safe=":")


def _event(data: str) -> Json:
    """Return what an event of a stream says."""
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise RemoteError(f"The server sent a broken event. {NOT_OURS}", http_status=200)
    return event


def _delta(chunk: Json) -> Iterator[str]:
    if "error" in chunk:
        raise _remote_error(chunk["error"], http_status=500)
    for choice in chunk.get("choices") or ():
        text = (choice.get("delta") or {}).get("content")
        if text:
            yield text


def _raise_for(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    envelope = _envelope(answer)
    if envelope is None:
        raise RemoteError(
            f"The server answered {answer.status_code} {answer.reason_phrase} and no reason. "
            f"{NOT_OURS}",
            http_status=answer.status_code,
        )
    raise _remote_error(
        envelope, http_status=answer.status_code, retry_after=answer.headers.get("retry-after")
    )


def _envelope(answer: httpx.Response) -> Json | None:
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return error if isinstance(error, dict) else None


def _remote_error(
    envelope: Json, *, http_status: int, retry_after: str | None = None
) -> RemoteError:
    return RemoteError(
        str(envelope.get("message") or f"The server answered {http_status}."),
        http_status=http_status,
        param=envelope.get("param"),
        code=envelope.get("code"),
        retry_after_seconds=float(retry_after) if retry_after and retry_after.isdigit() else None,
    )


def _object(answer: httpx.Response) -> Json:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RemoteError(
            f"The server at {answer.url.host}:{answer.url.port} did not answer with JSON. "
            f"{NOT_OURS}",
            http_status=answer.status_code,
        )
    return value


def _why(url: str, problem: httpx.RequestError) -> str:
    if isinstance(problem, httpx.TimeoutException):
        return f"The server at {url} did not answer in time. Try again, or look at its logs."
    if isinstance(problem, httpx.ConnectError):
        return f"No server answers at {url}. Start one with `sintonia serve`."
    if isinstance(problem, httpx.DecodingError | httpx.TooManyRedirects):
        return f"The server at {url} does not answer as Sintonia does. {NOT_OURS}"
    return f"The server at {url} ended the connection. Try again, or look at its logs."
