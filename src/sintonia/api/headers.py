"""OpenAI's response headers, and a request's method and path for messages."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sintonia import ids
from sintonia.api.azure import azure_headers

API_VERSION = "2020-10-01"
"""What OpenAI's service sends as ``openai-version``."""

ASKED_PATH = "sintonia.asked_path"
"""Of a request's scope: the path as it was asked for, where another one is routed."""

IGNORED_HEADER = "sintonia-ignored-parameters"
"""Names the parameters of a request that were accepted and do nothing."""

PROJECT_HEADER = "openai-project"
"""Sent back to a client that names its project."""

_SHOWN_URL_CHARACTERS = 200
_SHOWN_NAMES = 20
_PLAIN_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")


class StandardHeaders:
    """Gives each request an id and each response OpenAI's headers."""

    def __init__(self, app: ASGIApp, organization: str) -> None:
        self._app = app
        self._organization = organization

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["sintonia.request_id"] = ids.REQUEST + secrets.token_hex(16)
        scope["sintonia.organization"] = self._organization
        scope["sintonia.began"] = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(standard_headers(scope))
            await send(message)

        await self._app(scope, receive, send_with_headers)


def standard_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that OpenAI's service, or Azure's, sends with every answer."""
    elapsed_seconds = time.perf_counter() - scope["sintonia.began"]
    project = Headers(scope=scope).get(PROJECT_HEADER, "")
    return {
        "x-request-id": scope["sintonia.request_id"],
        "openai-version": API_VERSION,
        "openai-organization": scope["sintonia.organization"],
        "openai-processing-ms": str(round(elapsed_seconds * 1000)),
        **azure_headers(scope),
        **({PROJECT_HEADER: project} if _PLAIN_NAME.match(project) else {}),
    }


def request_url(scope: Scope) -> str:
    """Return method and path for a message, cut and free of control characters."""
    asked = scope.get(ASKED_PATH, scope["path"])
    path = "".join(sign if sign.isprintable() else "?" for sign in asked)
    return f"{scope['method']} {path[:_SHOWN_URL_CHARACTERS]}"


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """Return the header that tells which parameters were accepted and do nothing."""
    plain = [name for name in names if _PLAIN_NAME.match(name)]
    return {IGNORED_HEADER: ", ".join(plain[:_SHOWN_NAMES])} if plain else {}
