"""Calls a server as a client does, over HTTP, and checks every answer against the specification.

``Ledger`` is what one run of the suite learns: which operations answered, how often, how their
answers depart from the specification, and which operations are not there.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from conformance.spec import Departure, Operation, Spec

NO_ROUTE_CODES = {"unknown_url", "method_not_allowed"}
"""How an error says that nothing answers there, where it says so in its code."""
_NO_ROUTE_TEXTS = ("Invalid URL", "Unknown request URL", "Not Found", "Method Not Allowed")


@dataclass
class Ledger:
    """What the answers of one run were."""

    calls: Counter[Operation] = field(default_factory=Counter)
    answers: Counter[Operation] = field(default_factory=Counter)
    """Those that could be held against the specification."""
    departures: dict[Operation, set[Departure]] = field(default_factory=lambda: defaultdict(set))
    absent: set[Operation] = field(default_factory=set)

    def all_departures(self) -> set[Departure]:
        """Return every departure that occurred."""
        return set().union(*self.departures.values())


@dataclass
class Wire:
    """A server, and the ledger that its answers go into."""

    http: httpx.Client
    spec: Spec
    ledger: Ledger

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Call with GET; see ``call``."""
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Call with POST; see ``call``."""
        return self.call("POST", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        """Call with DELETE; see ``call``."""
        return self.call("DELETE", path, **options)

    def call(self, method: str, path: str, *, expect: int = 200, **options: Any) -> httpx.Response:
        """Return the answer of ``path`` below the base URL, which must have status ``expect``.

        Skips the test when the server has no such operation.
        """
        operation = self.spec.operation(method, path)
        answer = self.http.request(method, path.removeprefix("/"), **options)
        self.ledger.calls[operation] += 1
        self._skip_if_absent(operation, answer)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind == "application/json":
            self._check(operation, answer.status_code, kind, answer.json())
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def stream(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks of a streamed answer, which must end with ``[DONE]``."""
        operation = self.spec.operation("POST", path)
        self.ledger.calls[operation] += 1
        with self.http.stream("POST", path.removeprefix("/"), json={**body, "stream": True}) as got:
            if got.status_code != 200:
                got.read()
                self._skip_if_absent(operation, got)
            assert got.status_code == 200, got.text
            assert got.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in got.iter_lines() if line.startswith("data:")]
        data = [line.removeprefix("data:").strip() for line in lines]
        assert data[-1] == "[DONE]"
        chunks = [json.loads(text) for text in data[:-1]]
        for chunk in chunks:
            self._check(operation, 200, "text/event-stream", chunk)
        return chunks

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, page after page, as the SDKs ask for them."""
        after: dict[str, str] = {}
        while True:
            page = self.get(path, params={**query, **after}).json()
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    def refused(self, method: str, path: str, status: int, **options: Any) -> dict[str, Any]:
        """Return the error of a call that must be refused with ``status``."""
        answer = self.call(method, path, expect=status, **options).json()
        assert list(answer) == ["error"], answer
        return answer["error"]

    def _check(self, operation: Operation, status: int, kind: str, value: Any) -> None:
        schema = self.spec.answer_schema(operation, status, kind)
        if schema is None:
            return
        self.ledger.answers[operation] += 1
        found = self.spec.departures(schema, value, f"{operation} {status}")
        self.ledger.departures[operation] |= found

    def _skip_if_absent(self, operation: Operation, answer: httpx.Response) -> None:
        if is_absent(answer):
            self.ledger.absent.add(operation)
            pytest.skip(f"not there: {operation}")


def is_absent(answer: httpx.Response) -> bool:
    """Tell whether an answer says that the server has no such operation."""
    if answer.status_code not in (404, 405, 501):
        return False
    error = _error_of(answer)
    text = str(error.get("message", answer.text))
    has_no_route = any(sign in text for sign in _NO_ROUTE_TEXTS)
    return error.get("code") in NO_ROUTE_CODES or (has_no_route and not error.get("param"))


def _error_of(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


@contextmanager
def connected(base_url: str, api_key: str) -> Iterator[httpx.Client]:
    """Yield a client whose paths lie below ``base_url``."""
    headers = {"Authorization": f"Bearer {api_key}"}
    base = f"{base_url.rstrip('/')}/"
    with httpx.Client(base_url=base, headers=headers, timeout=120) as client:
        yield client
