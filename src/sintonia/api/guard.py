"""The guard of the loopback: no keys yet, so only this machine's own programs may ask.

Decisions rest on the ``Host`` and ``Origin`` headers as the connection carried them, never on
a URL that the framework put together from them.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sintonia.api.errors import error_response
from sintonia.errors import InvalidRequest, PermissionDenied, SintoniaError

_LOOPBACK = re.compile(r"^(127(\.\d{1,3}){3}|localhost|\[::1\])(:\d{1,5})?$", re.IGNORECASE)


class LoopbackGuard:
    """Refuses requests that a web page of somebody else made a browser send here.

    The server has no keys yet and listens on the loopback only. A page can still reach it
    through a host name that it points to 127.0.0.1 (then ``Host`` is that name), or by posting
    across origins (then ``Origin`` is that page's).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        refusal = _refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await error_response(refusal)(scope, receive, send)


def _refusal(headers: Headers) -> SintoniaError | None:
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _LOOPBACK.match(hosts[0]):
        return InvalidRequest(
            "Header Host: this server answers only to 127.0.0.1, localhost and [::1]. "
            "Use one of these names in the base URL.",
            code="invalid_host",
        )
    origins = headers.getlist("origin")
    if not all(_LOOPBACK.match(origin.partition("://")[2]) for origin in origins):
        return PermissionDenied(
            "Header Origin: web pages of other sites may not use this server.",
            code="invalid_origin",
        )
    return None
