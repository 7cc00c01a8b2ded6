"""What has expired is removed now and then, by one task of the API process.

Whatever can expire is gone for every reader at its time, swept or not; sweeping frees the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from anyio import to_thread

from sintonia.api.services import Services
from sintonia.errors import SintoniaError

EVERY_SECONDS = 60.0

Sweep = Callable[[], int]
"""Removes what has expired; returns how many."""

_log = logging.getLogger(__name__)


def sweeps_of(services: Services) -> Mapping[str, Sweep]:
    """Return all that is swept, by the name of what it removes."""
    store = services.store
    return {
        "files": store.files.remove_expired,
        "uploads": store.uploads.remove_expired,
        "kept answers": store.kept_answers.remove_expired,
        "stored completions": store.completions.remove_expired,
    }


def sweep(sweeps: Mapping[str, Sweep]) -> None:
    """Remove all that has expired; what cannot be done now is done the next time."""
    for name, remove in sweeps.items():
        try:
            remove()
        except (SintoniaError, OSError) as problem:
            _log.warning("expired %s stay until the next time: %s", name, problem)
        except Exception:  # noqa: BLE001 - or nothing would be swept any more, and nobody told
            _log.exception("expired %s stay until the next time", name)


@asynccontextmanager
async def sweeping(
    sweeps: Mapping[str, Sweep], every_seconds: float = EVERY_SECONDS
) -> AsyncIterator[None]:
    """Sweep at once and then regularly, as long as the block lasts."""
    task = asyncio.create_task(_keep_sweeping(sweeps, every_seconds))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_sweeping(sweeps: Mapping[str, Sweep], every_seconds: float) -> None:
    while True:
        await to_thread.run_sync(sweep, sweeps)
        await asyncio.sleep(every_seconds)
