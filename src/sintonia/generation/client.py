"""The engine as seen from another process.

Invariant: whatever happens to the engine process, each request here ends: with its answer, with
the error the engine gave, or with ``EngineUnavailable``. The next request connects again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sintonia.errors import EngineUnavailable
from sintonia.generation import wire
from sintonia.generation.base import EngineStatus, GenerationRequest, TokenChunk, check_request
from sintonia.generation.mailbox import Mailbox

CONNECT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 2


class EngineClient:
    """An ``Engine`` over the socket of an engine process. To be used from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._ids = itertools.count(1)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Yield the tokens of ``request``; see ``Engine.stream``.

        Raises ``EngineUnavailable`` too, when there is no engine or it dies on the way.
        """
        check_request(request)
        connection = await self._connected()
        call_id, mailbox = next(self._ids), Mailbox()
        connection.mailboxes[call_id] = mailbox
        finished = False
        try:
            await connection.send(
                {"op": "generate", "id": call_id, "request": wire.encode_request(request)}
            )
            while not finished:
                chunk = await mailbox.take()
                finished = chunk.finish_reason is not None
                yield chunk
        finally:
            del connection.mailboxes[call_id]
            if not finished:
                connection.send_soon({"op": "cancel", "id": call_id})

    @property
    def num_held(self) -> int:
        """How many requests run or wait; those of other processes are not known here."""
        return 0 if self._connection is None else len(self._connection.mailboxes)

    async def unload(self, adapter_or_base_sha256: str) -> None:
        """Drop weights in the engine. Raises ``EngineUnavailable``."""
        await self._ask({"op": "unload", "sha256": adapter_or_base_sha256})

    async def status(self) -> EngineStatus:
        """Tell what the engine holds and does. Raises ``EngineUnavailable``."""
        return wire.decode_status((await self._ask({"op": "status"}))["status"])

    async def close(self) -> None:
        """Leave the engine; its process goes on."""
        if self._connection is not None:
            await self._connection.close()

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message that has a single answer; return that."""
        connection = await self._connected()
        call_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        connection.answers[call_id] = answer
        try:
            await connection.send({**message, "id": call_id})
            return await answer
        finally:
            del connection.answers[call_id]

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.is_lost:
                self._connection = await _connect(self._path)
            return self._connection


class _Connection:
    """One connection and what waits for its lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.mailboxes: dict[int, Mailbox] = {}
        self.answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.is_lost = False
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.create_task(self._read())

    async def send(self, message: dict[str, Any]) -> None:
        """Send a line, not faster than it is taken. Raises ``EngineUnavailable``."""
        self.send_soon(message)
        try:
            await self._writer.drain()
        except OSError:
            raise _unavailable() from None

    def send_soon(self, message: dict[str, Any]) -> None:
        """Send a line without waiting; nothing happens on a lost connection."""
        if not self._writer.is_closing():
            self._writer.write(wire.encode_line(message))

    async def close(self) -> None:
        """End the connection; everything that waits gets ``EngineUnavailable``."""
        self._writer.close()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                self._dispatch(wire.decode_line(line))
        except (OSError, ValueError):
            pass  # a broken line or connection ends like a closed one, below
        finally:
            self.is_lost = True
            self._writer.close()
            for mailbox in self.mailboxes.values():
                mailbox.put(_unavailable())
            for answer in self.answers.values():
                if not answer.done():
                    answer.set_exception(_unavailable())

    def _dispatch(self, message: dict[str, Any]) -> None:
        """Hand a line to who waits for it; those who left get nothing."""
        mailbox = self.mailboxes.get(message["id"])
        answer = self.answers.get(message["id"])
        error = wire.decode_error(message["error"]) if "error" in message else None
        if mailbox is not None:
            mailbox.put(error or wire.decode_chunk(message["chunk"]))
        if answer is None or answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(message)


async def _connect(path: Path) -> _Connection:
    """Connect to the engine at ``path``; raises ``EngineUnavailable`` when it does not answer."""
    try:
        # In a folder for everybody another user could wait under our name.
        if os.stat(path).st_uid != os.getuid():  # noqa: PTH116 - a stat does not wait
            raise _unavailable()
        async with asyncio.timeout(CONNECT_SECONDS):
            streams = await asyncio.open_unix_connection(path, limit=wire.MAX_LINE_BYTES)
    except (OSError, TimeoutError):
        raise _unavailable() from None
    return _Connection(*streams)


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable(
        "The engine does not answer: it is starting or restarting. Try again in a moment.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
