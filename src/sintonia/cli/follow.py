"""Following a job to its end: what happened since the last look, shown as it comes.

A source is anything that can tell a job and its events: the command line's own client, or
the ``openai`` package in the demo. A view is anything that can show an update.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sintonia.errors import RemoteError, ServerUnreachable

Json = Mapping[str, Any]

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 90.0
"""How long a server may be away (it restarts its parts) before following gives up."""
AWAY = "The server does not answer at the moment; waiting for it."
AT_REST = ("succeeded", "failed", "cancelled", "paused")
"""Statuses in which nothing more happens by itself."""


class JobSource(Protocol):
    """Where a job and its events come from. Raises ``ServerUnreachable`` or ``RemoteError``."""

    def job(self, job_id: str) -> Json:
        """Return the job object."""
        ...

    def events(self, job_id: str) -> Iterator[Json]:
        """Yield the job's events, newest first."""
        ...


class View(Protocol):
    """What shows updates."""

    def show(self, update: Update) -> None:
        """Show what is new."""
        ...

    def trouble(self, message: str) -> None:
        """Show that the server does not answer at the moment."""
        ...


@dataclass(frozen=True)
class Update:
    """One look at a job."""

    job: Json
    events: tuple[Json, ...]
    """New since the last look, oldest first."""

    @property
    def is_last(self) -> bool:
        """Tell whether the job has ended, or rests."""
        return self.job["status"] in AT_REST


class Follower:
    """Looks at one job again and again; each event is told once."""

    def __init__(self, source: JobSource, job_id: str) -> None:
        self._source = source
        self._job_id = job_id
        self._last_event: str | None = None

    def look(self) -> Update:
        """Return what is new.

        The job is read before its events: when it has ended, all its events are there.
        """
        job = self._source.job(self._job_id)
        new: list[Json] = []
        for event in self._source.events(self._job_id):
            if event["id"] == self._last_event:
                break
            new.append(event)
        if new:
            self._last_event = new[0]["id"]
        return Update(job, tuple(reversed(new)))


def follow(
    source: JobSource, job_id: str, view: View, *, poll_seconds: float = POLL_SECONDS
) -> Json:
    """Show a job until it ends or is paused; return it.

    A server that is away for a while is waited for.
    """
    follower = Follower(source, job_id)
    away_since: float | None = None
    while True:
        try:
            update = follower.look()
        except (ServerUnreachable, RemoteError) as problem:
            if isinstance(problem, RemoteError) and problem.http_status < 500:
                raise
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise
            view.trouble(AWAY)
        else:
            away_since = None
            view.show(update)
            if update.is_last:
                return update.job
        time.sleep(poll_seconds)
