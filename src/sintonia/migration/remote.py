"""The other server: OpenAI's wire, read patiently.

Every request is tried again while it may succeed later: when the connection dies, on 408, 409,
429 and 5xx, as ``Retry-After`` says. Every other failure is a ``RemoteError`` with the server's
words. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from sintonia.domain.imported import Json
from sintonia.errors import InvalidValue, RemoteError, ServerUnreachable
from sintonia.migration.pace import Pace, TryLater, wait_asked_for

T = TypeVar("T")

OPENAI = "https://api.openai.com/v1"
CHUNK_BYTES = 256 * 1024
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_LATER = {408, 409, 425, 429}
_FOR_GOOD = {"insufficient_quota", "billing_hard_limit_reached"}
"""Codes of a 429 that no waiting mends."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Address:
    """Where the other server is, and who asks."""

    url: str
    """The base URL, ``/v1`` included."""
    key: str | None = None
    project: str | None = None

    @property
    def is_this_machine(self) -> bool:
        """Tell whether the server is on this machine, where no proxy leads to it."""
        return is_loopback(self.url)


class Remote:
    """A client of the other server. Safe to use from many threads."""

    def __init__(self, address: Address, pace: Pace, *, connections: int) -> None:
        self.url = address.url
        self._pace = pace
        headers = {"authorization": f"Bearer {address.key}"} if address.key else {}
        if address.project:
            headers["openai-project"] = address.project
        self._http = httpx.Client(
            base_url=f"{address.url}/",
            headers=headers,
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=connections),
            trust_env=not address.is_this_machine,
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

    def object(self, path: str) -> Json:
        """Return one object. Raises ``RemoteError``, ``ServerUnreachable``, ``Stopped``."""
        return self._json(path, {})

    def pages(self, path: str, limit: int) -> Iterator[list[Json]]:
        """Yield a list page by page, in the server's order. Raises like ``object``."""
        query: dict[str, str | int] = {"limit": limit}
        while True:
            page = self._json(path, query)
            items = _items(page, self.url)
            if items:
                yield items
            # An older server leaves has_more out; one that ignores cursors repeats itself.
            if not items or not page.get("has_more") or query.get("after") == items[-1]["id"]:
                return
            query["after"] = items[-1]["id"]

    def content(self, file_id: str, keep: Callable[[Iterator[bytes]], T]) -> T:
        """Return what ``keep`` makes of a file's content; it begins anew when that breaks off.

        Raises like ``object``, and what ``keep`` raises.
        """

        def attempt() -> T:
            with self._http.stream("GET", f"files/{file_id}/content") as answer:
                if not answer.is_success:
                    answer.read()
                self._check(answer)
                return keep(self._chunks(answer))

        return self._patiently(attempt)

    def _json(self, path: str, query: Mapping[str, str | int]) -> Json:
        def attempt() -> Json:
            answer = self._http.get(path, params=query)
            self._check(answer)
            return _object(answer, self.url)

        return self._patiently(attempt)

    def _chunks(self, answer: httpx.Response) -> Iterator[bytes]:
        for chunk in answer.iter_bytes(CHUNK_BYTES):
            self._pace.go_on()
            yield chunk

    def _patiently(self, attempt: Callable[[], T]) -> T:
        began, failures = time.monotonic(), 0
        while True:
            self._pace.go_on()
            try:
                with self._reached():
                    return attempt()
            except TryLater as problem:
                failures += 1
                self._pace.failed(problem, failures, began)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as problem:
            raise TryLater(
                ServerUnreachable(
                    f"The server at {self.url} cannot be reached "
                    f"({type(problem).__name__}). Nothing is lost: run the same command again "
                    "and it goes on from here."
                )
            ) from None

    def _check(self, answer: httpx.Response) -> None:
        """Raise ``TryLater`` or ``RemoteError`` for an answer that is an error."""
        if answer.is_success:
            return
        error = _error(answer, self.url)
        may_pass = answer.status_code in _LATER or answer.status_code >= 500
        asked = answer.headers.get("x-should-retry")
        if (may_pass or asked == "true") and asked != "false" and error.code not in _FOR_GOOD:
            raise TryLater(error, wait_asked_for(answer.headers))
        raise error


def base_url(url: str) -> str:
    """Return a base URL that ends in its path, ``/v1`` when it has none.

    Raises ``InvalidValue`` for what is no URL of a server.
    """
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username:
        raise InvalidValue(
            f"--base-url {url}: must be the base URL of a server, such as {OPENAI}.",
            param="base_url",
        )
    plain = url.rstrip("/")
    return plain if parts.path.strip("/") else f"{plain}/v1"


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_json(content: bytes) -> Any:
    """Return what JSON says; what no database or answer could hold is made harmless.

    Not-a-number becomes ``null``, half a character a question mark. Raises ``ValueError``.
    """
    try:
        value = json.loads(content, parse_constant=lambda _: None)
        if _SURROGATE.search(content):
            text = json.dumps(value, ensure_ascii=False)
            value = json.loads(text.encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _object(answer: httpx.Response, url: str) -> Json:
    try:
        value = read_json(answer.content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _not_the_wire(url, answer.status_code)
    return value


def _items(page: Json, url: str) -> list[Json]:
    items = page.get("data")
    is_list = isinstance(items, list) and all(
        isinstance(item, dict) and isinstance(item.get("id"), str) for item in items
    )
    if not is_list:
        raise _not_the_wire(url, 200)
    return list(items or ())


def _not_the_wire(url: str, status: int) -> RemoteError:
    return RemoteError(
        f"The server at {url} does not answer as OpenAI's API does. Is the base URL right? "
        "It ends in /v1 with most servers.",
        http_status=status,
    )


def _error(answer: httpx.Response, url: str) -> RemoteError:
    try:
        envelope = read_json(answer.content)["error"]
    except (ValueError, KeyError, TypeError):
        envelope = None
    if not isinstance(envelope, dict):
        envelope = {}
    words = envelope.get("message") or f"{answer.status_code} {answer.reason_phrase}"
    code = envelope.get("code")
    return RemoteError(
        f"The server at {url} answered: {words}",
        http_status=answer.status_code,
        code=code if isinstance(code, str) else None,
    )
