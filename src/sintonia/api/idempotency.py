"""``Idempotency-Key``: a request that is sent again within a day gets the first one's answer.

Invariant: under one key at most one request is carried out at a time, and none again once it
was answered; a fault of ours or "come back later" is no answer. A server that is killed between
carrying out a request and keeping its answer does not know of it afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response

from sintonia.api.errors import error_response
from sintonia.api.services import Services, ServicesDep
from sintonia.domain.kept_answers import KEPT_SECONDS, KeptAnswer
from sintonia.errors import InvalidRequest, InvalidValue, SintoniaError, TooManyRequests

HEADER = "idempotency-key"

_MAX_KEY_CHARACTERS = 255
_OWN_HEADERS = {"content-length", "content-type"}
"""Those that a response makes of its body."""


class KeyLocks:
    """One lock for each key in use."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._num_users: dict[str, int] = defaultdict(int)

    @asynccontextmanager
    async def holding(self, key: str) -> AsyncIterator[None]:
        """Let one at a time pass under ``key``."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._num_users[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._num_users[key] -= 1
            if not self._num_users[key]:
                del self._locks[key], self._num_users[key]


@dataclass(frozen=True)
class Once:
    """Carries out a request once for each key."""

    key: str | None
    target: str
    """Method and path: the same key elsewhere is another request."""
    services: Services
    locks: KeyLocks

    async def answer(self, said: Any, make: Callable[[], Response]) -> Response:
        """Return the answer that ``make`` gives, in a worker's thread, or gave before.

        ``said`` is what the request said, as JSON. Raises ``InvalidRequest`` for a key that was
        used for another request.
        """
        if self.key is None:
            return await to_thread.run_sync(make)
        text = json.dumps([self.target, said], sort_keys=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        async with self.locks.holding(self.key):
            return await to_thread.run_sync(self._answer, self.key, fingerprint, make)

    def _answer(self, key: str, fingerprint: str, make: Callable[[], Response]) -> Response:
        kept = self.services.store.kept_answers.get(key)
        if kept is None:
            return self._make(key, fingerprint, make)
        if kept.fingerprint != fingerprint:
            raise InvalidRequest(
                f"Header Idempotency-Key: the key {key!r} was used for another request within the "
                f"last {KEPT_SECONDS // 3600} hours. Use a new key for each new request.",
                code="idempotency_key_reused",
            )
        return _response(kept)

    def _make(self, key: str, fingerprint: str, make: Callable[[], Response]) -> Response:
        try:
            response = make()
        except SintoniaError as error:
            if error.status >= 500 or isinstance(error, TooManyRequests):
                raise
            response = error_response(error)
        headers = {n: v for n, v in response.headers.items() if n not in _OWN_HEADERS}
        body = bytes(response.body).decode()
        kept = KeptAnswer(fingerprint, response.status_code, headers, body)
        self.services.store.kept_answers.keep(key, kept)
        return response


def once_of(request: Request, services: ServicesDep) -> Once:
    """Return the way to carry out a request once. Raises ``InvalidValue`` for a bad key."""
    key = request.headers.get(HEADER) or None
    if key is not None and (len(key) > _MAX_KEY_CHARACTERS or not key.isprintable()):
        raise InvalidValue(
            f"Header Idempotency-Key: must have at most {_MAX_KEY_CHARACTERS} printable "
            "characters. Use a random UUID."
        )
    target = f"{request.method} {request.url.path}"
    return Once(key, target, services, request.app.state.key_locks)


OnceDep = Annotated[Once, Depends(once_of)]
"""Parameter type of a route whose requests may carry a key."""


def _response(kept: KeptAnswer) -> Response:
    return JSONResponse(json.loads(kept.body), kept.status, headers=dict(kept.headers))
