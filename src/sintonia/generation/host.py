"""The engine's own process: ``python -m sintonia.generation.host``.

It listens on a Unix socket that only its user can open. Invariant: one host for each home (a
locked file beside the socket says so); a connection that ends takes its requests with it; a
reader that does not read holds up only itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sintonia import failpoints, parent
from sintonia.errors import (
    AlreadyRunning,
    EngineUnavailable,
    InvalidValue,
    ServerError,
    SintoniaError,
)
from sintonia.generation import engines, wire
from sintonia.generation.base import Engine
from sintonia.settings import Settings, load

_log = logging.getLogger(__name__)


class Host:
    """Serves one engine to any number of connections."""

    def __init__(self, engine: Engine, *, max_calls: int) -> None:
        self._engine = engine
        self._max_calls = max_calls
        self._connections: set[asyncio.Task[None]] = set()
        self.engine_is_gone = False
        self.stop = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections until ``stop`` is set, then end them and the engine."""
        server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=wire.MAX_LINE_BYTES
        )
        await self.stop.wait()
        server.close()
        await self._engine.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        calls = _Calls(self._engine, writer, self._note_gone)
        try:
            while line := await reader.readline():
                calls.start(wire.decode_line(line))
                await calls.wait_for_room(self._max_calls)
        except (OSError, ValueError):
            _log.warning("a connection broke or sent something that is no message")
        except asyncio.CancelledError:
            # The host is ending. Streams of Python 3.11 print a handler that ends cancelled.
            pass
        finally:
            await calls.end()
            writer.close()
            self._connections.discard(task)

    def _note_gone(self) -> None:
        """The engine has ended by itself: so does this process, to be started anew."""
        self.engine_is_gone = not self.stop.is_set()
        self.stop.set()


class _Calls:
    """The calls of one connection that are under way."""

    def __init__(
        self, engine: Engine, writer: asyncio.StreamWriter, note_gone: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._note_gone = note_gone
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, message: dict[str, Any]) -> None:
        """Begin what ``message`` asks for; a cancel takes effect at once."""
        call_id = message.get("id")
        if not isinstance(call_id, int):
            raise ValueError("a call needs a number as its id")  # noqa: TRY004 - one error for bad lines
        if message.get("op") == "cancel":
            if call_id in self._tasks:
                self._tasks[call_id].cancel()
            return
        task = asyncio.create_task(self._answer(call_id, message))
        self._tasks[call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call_id, None))

    async def wait_for_room(self, max_calls: int) -> None:
        """Return when fewer than ``max_calls`` are under way."""
        while len(self._tasks) >= max_calls:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)

    async def end(self) -> None:
        """Cancel all calls and wait until they have let go of the engine."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, call_id: int, message: dict[str, Any]) -> None:
        """Carry out one call; its last line is sent whatever happens, unless nobody reads on."""
        last: dict[str, Any] | None = {"error": wire.encode_error(_fault())}
        try:
            last = await self._carry_out(call_id, message)
        except SintoniaError as error:
            last = {"error": wire.encode_error(error)}
            if isinstance(error, EngineUnavailable):
                self._note_gone()
        except ConnectionError:
            last = None
        except asyncio.CancelledError:
            last = None
            raise
        finally:
            if last is not None:
                self._writer.write(wire.encode_line({"id": call_id, **last}))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def _carry_out(self, call_id: int, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return the call's last line, or ``None`` when it has been sent."""
        match message.get("op"):
            case "generate":
                await self._generate(call_id, message.get("request"))
                return None
            case "status":
                return {"status": wire.encode_status(await self._engine.status())}
            case "unload":
                await self._engine.unload(str(message.get("sha256")))
                return {"done": True}
            case other:
                raise InvalidValue(
                    f"Operation {other!r}: the engine knows generate, cancel, status and unload. "
                    "Run server and engine from the same version."
                )

    async def _generate(self, call_id: int, data: Any) -> None:
        stream = self._engine.stream(wire.decode_request(data))
        try:
            async for chunk in stream:
                line = {"id": call_id, "chunk": wire.encode_chunk(chunk)}
                self._writer.write(wire.encode_line(line))
                await self._writer.drain()
        finally:
            await stream.aclose()  # type: ignore[attr-defined]  # engines write generators


def _fault() -> ServerError:
    return ServerError("The engine failed on this request. Its log says why.")


def bind(path: Path) -> tuple[socket.socket, IO[bytes]]:
    """Take the address ``path``; return the bound socket and the lock that guards it.

    Raises ``AlreadyRunning`` when another host has it. A socket that a dead host left is removed.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise AlreadyRunning(f"{path.parent} belongs to another user. Choose another home folder.")
    lock = path.with_suffix(".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AlreadyRunning(
            "An engine is running for this home already. Stop it first, or use it."
        ) from None
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(mask)
    return listener, lock


async def run(settings: Settings, *, until_stdin_closes: bool) -> int:
    """Serve until SIGTERM, SIGINT or, if wanted, the end of stdin; return the exit status."""
    path = wire.socket_path(settings)
    listener, lock = bind(path)
    try:
        host = Host(
            engines.create(settings),
            max_calls=settings.engine_slots + settings.engine_queue + 64,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, host.stop.set)
        if until_stdin_closes:
            parent.when_it_ends(lambda: loop.call_soon_threadsafe(host.stop.set))
        _log.info("engine %s is listening", settings.engine)
        await host.serve(listener)
    finally:
        path.unlink(missing_ok=True)
        lock.close()
    return 1 if host.engine_is_gone else 0


def _let_threads_sleep() -> None:
    """Let torch's threads sleep, not spin, while they wait for each other.

    Spinning is a fifth faster on an idle machine and up to ten times slower when a trainer wants
    the same cores. OpenMP reads this once, when torch is imported; an operator's value wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> int:
    """Run the engine process."""
    parser = argparse.ArgumentParser(prog="python -m sintonia.generation.host")
    parser.add_argument("--until-stdin-closes", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _let_threads_sleep()
    try:
        settings = load()
        failpoints.arm(settings.failpoint)
        return asyncio.run(run(settings, until_stdin_closes=arguments.until_stdin_closes))
    except SintoniaError as error:
        _log.error("%s", error.message)
        return 2


if __name__ == "__main__":
    sys.exit(main())
