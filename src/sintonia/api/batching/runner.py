"""The runner: finds the batches that have not ended and has each led to its end.

Invariant: one runner for each home, whatever processes there are: it holds a lock on a file, which
ends with its process. No batch and no fault of one ends the runner.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from anyio import to_thread
from fastapi import Depends, Request

from sintonia.api.batching.answering import Answerer
from sintonia.api.batching.lead import Lead
from sintonia.api.batching.workplace import Workplace
from sintonia.api.services import Services
from sintonia.domain.batches import Batch, BatchProblem, BatchStatus
from sintonia.errors import InsufficientStorage, SintoniaError, Unavailable
from sintonia.sealed import FULL_DISK
from sintonia.settings import Settings
from sintonia.store.batches import BatchOutcome

POLL_SECONDS = 2.0
"""How long the end of a window, or what another process did to a batch, may go unnoticed."""
LED_AT_ONCE = 8
"""So many batches share the room there is; those after them wait."""
RETRY_SECONDS = 15.0
"""When a batch goes on that had to stop for want of disk or database."""
LOCK = ".lock"
UNEXPECTED = (
    "The batch failed because of an unexpected error of the server. Its operator finds the reason "
    "in api.log."
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Led:
    lead: Lead
    task: asyncio.Task[None]


class BatchRunner:
    """Runs the batches of one home in the event loop that ``running`` is entered in."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._batches = services.store.batches
        self._wake = asyncio.Event()
        self._led: dict[str, _Led] = {}
        self._due: dict[str, float] = {}

    def wake(self) -> None:
        """Have the runner look at once: there is a new batch, or one was cancelled."""
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends. Batches under way then stay as they are, to go on later."""
        task = asyncio.create_task(self._run())
        task.add_done_callback(_tell_of_fault)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        slots = batch_slots(self._services.settings)
        place = Workplace(self._services, Answerer(self._services, slots), slots)
        async with _alone(place.folder):
            try:
                await place.do(self._clear, place.folder)
                while True:
                    await self._look_and_wait(place)
            finally:
                await self._leave()

    async def _look_and_wait(self, place: Workplace) -> None:
        self._wake.clear()  # before looking: what happens after that is looked at next
        try:
            for batch in await place.do(self._batches.active):
                self._see_to(batch, place)
        except SintoniaError as problem:  # busy or full: the next look may succeed
            _log.warning("no look at the batches: %s", problem)
        try:
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        except TimeoutError:
            return

    def _see_to(self, batch: Batch, place: Workplace) -> None:
        """Begin to lead a batch if it is time, or tell its lead that it is over."""
        is_over = batch.status is BatchStatus.CANCELLING or (
            batch.status is BatchStatus.IN_PROGRESS and batch.has_run_out(time.time())
        )
        led = self._led.get(batch.id)
        if led is not None:
            if is_over:
                led.lead.call_off()
            return
        has_place = is_over or len(self._led) < LED_AT_ONCE
        if has_place and self._due.get(batch.id, 0.0) <= time.monotonic():
            lead = Lead(batch.id, place)
            self._led[batch.id] = _Led(lead, asyncio.create_task(self._lead(lead, batch.id)))

    async def _lead(self, lead: Lead, batch_id: str) -> None:
        """Lead one batch. Whatever goes wrong with it is its end, not the runner's."""
        try:
            await lead.run()
            self._due.pop(batch_id, None)
        except (Unavailable, InsufficientStorage) as problem:
            self._put_off(batch_id, problem)
        except OSError as problem:
            if problem.errno in FULL_DISK:
                self._put_off(batch_id, problem)
            else:
                await self._fail(batch_id)
        except Exception:  # noqa: BLE001 - around a batch, as the worker's around a job
            await self._fail(batch_id)
        finally:
            del self._led[batch_id]
            self.wake()

    def _put_off(self, batch_id: str, problem: Exception) -> None:
        _log.warning("%s has to wait: %s", batch_id, problem)
        self._due[batch_id] = time.monotonic() + RETRY_SECONDS

    async def _fail(self, batch_id: str) -> None:
        _log.exception("%s failed", batch_id)
        try:
            await to_thread.run_sync(self._give_up, batch_id)
        except SintoniaError as busy:  # another lead will come to the same end
            self._put_off(batch_id, busy)

    def _give_up(self, batch_id: str) -> None:
        if not self._batches.fail(batch_id, [BatchProblem("server_error", UNEXPECTED)]):
            self._batches.settle(batch_id, BatchStatus.CANCELLED, BatchOutcome())

    async def _leave(self) -> None:
        """Stop all leads where they are."""
        tasks = [led.task for led in self._led.values()]
        for led in list(self._led.values()):
            led.lead.call_off()
            led.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _clear(self, folder: Path) -> None:
        """Remove what batches left behind that have ended, as far as it can go now."""
        try:
            active = {batch.id for batch in self._batches.active()}
            gone = [p for p in folder.iterdir() if p.is_dir() and p.name not in active]
        except (SintoniaError, OSError) as problem:
            _log.warning("leftovers of batches stay: %s", problem)
            return
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)


def batch_slots(settings: Settings) -> int:
    """Return how many of the engine's slots batches take at most."""
    return max(1, min(settings.batch_slots, settings.engine_slots - 1))


@asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Wait until no other process runs the batches of this home, and keep others from it."""
    with _lock_file(folder) as lock:
        while not _is_taken(lock.fileno()):  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(POLL_SECONDS)
        yield


def _lock_file(folder: Path) -> IO[bytes]:
    return (folder / LOCK).open("ab")


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tell_of_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.error("batches do not run any more: %s", fault, exc_info=fault)


def _runner_of(request: Request) -> BatchRunner:
    runner = request.app.state.batches
    assert isinstance(runner, BatchRunner)
    return runner


RunnerDep = Annotated[BatchRunner, Depends(_runner_of)]
"""Parameter type of a route that has something for the runner."""
