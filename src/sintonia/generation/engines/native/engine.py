"""The native engine: models run by transformers, many requests and adapters at once.

Invariant: one thread computes; the event loop only hands tickets in and mail out, so it answers
while the model works. When that thread dies every request hears of it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

import torch

from sintonia.cores import num_cores
from sintonia.errors import EngineUnavailable, SintoniaError
from sintonia.generation.base import (
    EngineStatus,
    GenerationRequest,
    TokenChunk,
    check_request,
)
from sintonia.generation.engines.native.residency import Residency, ResidencyLimits
from sintonia.generation.engines.native.scheduler import Scheduler, Ticket
from sintonia.generation.mailbox import Mailbox
from sintonia.settings import Settings

_log = logging.getLogger(__name__)


class NativeEngine:
    """Serves models from folders; see ``Engine``."""

    def __init__(self, settings: Settings, limits: ResidencyLimits | None = None) -> None:
        self._threads = settings.threads or num_cores()
        self._wake = threading.Event()
        self._residency = Residency(limits or ResidencyLimits(), self._wake.set)
        self._scheduler = Scheduler(
            self._residency,
            slots=settings.engine_slots,
            queue=settings.engine_queue,
            cache_bytes=settings.engine_cache_bytes,
        )
        self._unloads: queue.SimpleQueue[tuple[str, Future[None]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sintonia-engine", daemon=True)
        self._thread.start()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Yield the tokens of ``request``; see ``Engine.stream``."""
        check_request(request)
        mailbox = Mailbox()
        ticket = Ticket(request, _delivery(asyncio.get_running_loop(), mailbox))
        self._scheduler.submit(ticket)
        try:
            # Asked after the ticket is in: if the thread ends later, it sees the ticket.
            self._require_alive()
            self._wake.set()
            finished = False
            while not finished:
                chunk = await mailbox.take()
                finished = chunk.finish_reason is not None
                yield chunk
        finally:
            ticket.cancelled = True
            self._wake.set()

    @property
    def num_held(self) -> int:
        """How many requests run or wait."""
        return sum(self._scheduler.counts())

    async def unload(self, adapter_or_base_sha256: str) -> None:
        """Drop weights between two steps; requests that run on them end in peace."""
        done: Future[None] = Future()
        self._unloads.put((adapter_or_base_sha256, done))
        self._require_alive()
        self._wake.set()
        await asyncio.wrap_future(done)

    async def status(self) -> EngineStatus:
        """Tell what is resident and how many requests run and wait."""
        running, waiting = self._scheduler.counts()
        return EngineStatus(
            resident_bases=self._residency.base_hashes(),
            resident_adapters=self._residency.adapter_hashes(),
            running=running,
            waiting=waiting,
            extra={"engine": "native", "threads": str(self._threads), "dtype": "float32"},
        )

    async def close(self) -> None:
        """End all requests with ``EngineUnavailable`` and the thread with them."""
        self._closing.set()
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _require_alive(self) -> None:
        if self._closing.is_set() or not self._thread.is_alive():
            raise _gone()

    def _run(self) -> None:
        """Compute until closed: the engine's thread."""
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while not self._closing.is_set():
                    self._wake.wait()
                    self._wake.clear()
                    self._work()
        finally:
            self._closing.set()
            self._scheduler.fail_all(_gone)
            while not self._unloads.empty():
                self._unloads.get()[1].set_exception(_gone())

    def _work(self) -> None:
        """Take steps until there is nothing to compute."""
        busy = True
        while busy and not self._closing.is_set():
            while not self._unloads.empty():
                sha256, done = self._unloads.get()
                self._residency.unload(sha256)
                self._scheduler.forget(sha256)
                done.set_result(None)
            busy = self._scheduler.step()


def _delivery(
    loop: asyncio.AbstractEventLoop, mailbox: Mailbox
) -> Callable[[TokenChunk | SintoniaError], None]:
    """Return how the engine's thread puts something into ``mailbox``, which lives on ``loop``."""

    def deliver(item: TokenChunk | SintoniaError) -> None:
        try:
            loop.call_soon_threadsafe(mailbox.put, item)
        except RuntimeError:
            _log.debug("a reader's event loop has ended")

    return deliver


def _gone() -> EngineUnavailable:
    return EngineUnavailable(
        "The engine has stopped. Try again in a moment.", retry_after_seconds=2
    )
