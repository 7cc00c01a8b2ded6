"""One request of a batch: answered by what the routes call, when there is room for it.

Invariant: batches have no more than ``slots`` answers under way at once, and what would be well in
a moment (a full queue, an engine that starts, weights that are being fetched) is waited out.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from fastapi.responses import Response
from starlette.types import Message

from sintonia.api.bodies import Body
from sintonia.api.errors import error_response
from sintonia.api.routes.chat import answer_chat
from sintonia.api.routes.completions import answer_completion
from sintonia.api.schemas.batches import Endpoint
from sintonia.api.services import Services
from sintonia.api.sse import Caller
from sintonia.api.translate.batches import Record, answered
from sintonia.data.requests import RequestLine
from sintonia.errors import (
    InsufficientStorage,
    ServerError,
    SintoniaError,
    TooManyRequests,
    Unavailable,
)
from sintonia.generation.base import Engine, EngineStatus, GenerationRequest, TokenChunk

FULL_DISK_SECONDS = 15.0

_log = logging.getLogger(__name__)

ANSWERERS: Mapping[Endpoint, Callable[[Body, Services, Caller], Awaitable[Response]]] = {
    "/v1/chat/completions": answer_chat,
    "/v1/completions": answer_completion,
}


class Answerer:
    """Answers requests of any batch, a few at a time, those first that came first."""

    def __init__(self, services: Services, slots: int) -> None:
        engine = PatientEngine(services.engine, asyncio.Semaphore(slots))
        self._services = replace(services, engine=engine)
        self._room = asyncio.Semaphore(slots)

    async def answer(self, request: RequestLine, endpoint: Endpoint) -> Record:
        """Return the record of a request, however long that takes."""
        while True:
            try:
                async with self._room:
                    response = await self._respond(request, endpoint)
            except (TooManyRequests, Unavailable) as problem:
                _log.info("%r waits: %s", request.custom_id, problem)
                await asyncio.sleep(problem.retry_after_seconds)
            except InsufficientStorage as problem:
                _log.warning("%r waits: %s", request.custom_id, problem)
                await asyncio.sleep(FULL_DISK_SECONDS)
            else:
                body = json.loads(bytes(response.body))
                return answered(request.custom_id, response.status_code, body)

    async def _respond(self, request: RequestLine, endpoint: Endpoint) -> Response:
        """Return what the endpoint would send. Raises what may be well in a moment."""
        try:
            return await ANSWERERS[endpoint](dict(request.body), self._services, _Stayer())
        except (TooManyRequests, Unavailable, InsufficientStorage):
            raise
        except SintoniaError as error:
            if isinstance(error, ServerError):
                _log.error("%r: %s", request.custom_id, error.message, exc_info=error)
            return error_response(error)
        except Exception:  # noqa: BLE001 - a fault in one request is that request's end alone
            _log.exception("request %r of a batch", request.custom_id)
            return error_response(
                ServerError(
                    "The server had an error while processing this request. Ask again; if it "
                    "stays, the server's log has the reason."
                )
            )


class _Stayer:
    """A caller who never goes away."""

    async def receive(self) -> Message:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


@dataclass(frozen=True)
class PatientEngine:
    """Another engine, for callers who have time: a few requests at once, and no full queue."""

    engine: Engine
    turns: asyncio.Semaphore

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Yield the tokens of ``request`` once it has its turn; see ``Engine.stream``."""
        async with self.turns:
            chunks, first = await self._begun(request)
            try:
                if first is not None:
                    yield first
                async for chunk in chunks:
                    yield chunk
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()

    @property
    def num_held(self) -> int:
        """How many requests run or wait in the engine."""
        return self.engine.num_held

    async def unload(self, adapter_or_base_sha256: str) -> None:
        """Drop weights that are resident."""
        await self.engine.unload(adapter_or_base_sha256)

    async def status(self) -> EngineStatus:
        """Tell what the engine holds and does."""
        return await self.engine.status()

    async def close(self) -> None:
        """Do nothing: the engine is somebody else's."""

    async def _begun(
        self, request: GenerationRequest
    ) -> tuple[AsyncIterator[TokenChunk], TokenChunk | None]:
        """Return a stream and its first chunk, as soon as the engine's queue takes it."""
        while True:
            chunks = self.engine.stream(request)
            try:
                return chunks, await anext(chunks, None)
            except TooManyRequests as full:
                await asyncio.sleep(full.retry_after_seconds)
