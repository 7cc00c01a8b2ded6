"""Server-sent events, and answers that stop being made when their client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from sintonia.api.errors import envelope
from sintonia.errors import SintoniaError

T = TypeVar("T")
_DONE = "data: [DONE]\n\n"
_HEARTBEAT = ": waiting\n\n"


class Caller(Protocol):
    """Who waits for an answer; a request over HTTP is one."""

    @property
    def receive(self) -> Receive:
        """Wait for what the caller says next: ``http.disconnect`` when it has gone away."""
        ...


class EventStream(StreamingResponse):
    """Sends each object as a ``data:`` line, then ``[DONE]``; ``None`` becomes a comment.

    An error raised on purpose becomes an event, since the status is sent already. ``source``
    and what it draws ``from_``, which has begun, are closed when the response ends, also when
    the client went away in between.
    """

    def __init__(
        self,
        source: AsyncGenerator[Mapping[str, Any] | None, None],
        from_: AsyncGenerator[Any, None],
        headers: Mapping[str, str],
    ) -> None:
        self._open = (source, from_)
        super().__init__(
            _lines(source),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._open:
                await generator.aclose()


async def _lines(
    source: AsyncGenerator[Mapping[str, Any] | None, None],
) -> AsyncGenerator[str, None]:
    try:
        async for value in source:
            yield _HEARTBEAT if value is None else _event(value)
    except SintoniaError as error:
        yield _event(envelope(error))
        return
    yield _DONE


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"


async def until_gone(caller: Caller, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; cancel it when the caller goes away.

    The body must have been read. Raises ``ClientDisconnect`` when the caller went away.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_gone(caller))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(caller: Caller) -> None:
    while (await caller.receive())["type"] != "http.disconnect":
        pass
