"""The events of a job as they happen, until it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from anyio import to_thread

from sintonia.domain.jobs import JobEvent
from sintonia.store import Store


@dataclass(frozen=True)
class Pace:
    """How often a follower looks and speaks."""

    poll_seconds: float = 0.5
    heartbeat_seconds: float = 15.0
    """After so long without an event there is a sign of life: proxies cut silent streams."""


_PACE = Pace()
_PAGE = 100


async def follow_events(
    store: Store, job_id: str, pace: Pace = _PACE
) -> AsyncGenerator[JobEvent | None, None]:
    """Give all events of a job, the oldest first, and wait for more; ``None`` is a heartbeat.

    Ends with the last event of a job that has ended. Raises ``JobNotFound``.
    """
    after, spoke_at = None, time.monotonic()
    while True:
        # Status before events: what a job that has ended still has to tell is there already.
        job = await to_thread.run_sync(store.jobs.get, job_id)
        events, has_more = await to_thread.run_sync(_events_after, store, job_id, after)
        for event in events:
            yield event
            after, spoke_at = event.id, time.monotonic()
        if has_more:
            continue
        if job.status.is_terminal:
            return
        if time.monotonic() - spoke_at >= pace.heartbeat_seconds:
            yield None
            spoke_at = time.monotonic()
        await asyncio.sleep(pace.poll_seconds)


def _events_after(store: Store, job_id: str, after: str | None) -> tuple[list[JobEvent], bool]:
    page = store.jobs.events(job_id, after=after, limit=_PAGE, order="asc")
    return page.items, page.has_more
