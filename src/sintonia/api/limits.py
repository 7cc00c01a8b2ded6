"""OpenAI's headers of rate limits, as far as there are limits.

The one bound is the engine's: it holds so many requests, running and waiting. Of tokens and of
time there is none, so ``x-ratelimit-*-tokens`` and ``x-ratelimit-reset-*`` are not sent.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sintonia.api.services import Services

BOUNDED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose requests take a place in the engine."""


class RequestLimits:
    """Tells how many requests the engine takes, and for how many it has room."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_bounded = scope["type"] == "http" and scope["path"] in BOUNDED
        if not is_bounded or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limit_headers(self._services))
            await send(message)

        await self._app(scope, receive, send_with_limits)


def limit_headers(services: Services) -> dict[str, str]:
    """Return how many requests there is room for, in all and now."""
    settings = services.settings
    limit = settings.engine_slots + settings.engine_queue
    remaining = max(0, limit - services.engine.num_held)
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
    }
