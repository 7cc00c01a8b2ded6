"""When the next request may be sent, and how long a failing one is tried again.

One pace is shared by all threads of a migration: a server that asks for a pause gets it from
every one of them.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sintonia.errors import SintoniaError

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
"""Of the waits that nobody asked for."""


class Stopped(Exception):
    """The migration is to end; what was begun is left to the next run."""


class TryLater(Exception):
    """An attempt that failed and may succeed later."""

    def __init__(self, error: SintoniaError, wait_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        """What to tell when no later attempt succeeds."""
        self.wait_seconds = wait_seconds
        """How long the server asks to wait; ``None`` when it does not say."""


@dataclass
class Pace:
    """The pace of one migration. Safe to use from many threads."""

    patience_seconds: float = 600.0
    """For how long one request is tried again before the migration ends."""
    _not_before: float = 0.0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Let whoever waits or goes on raise ``Stopped``."""
        self._stopped.set()

    def go_on(self) -> None:
        """Return when a request may be sent. Raises ``Stopped``."""
        while (wait := self._not_before - time.monotonic()) > 0:
            if self._stopped.wait(wait):
                break
        if self._stopped.is_set():
            raise Stopped

    def failed(self, problem: TryLater, failures: int, began: float) -> None:
        """Wait as long as the server asks, else longer after each failure.

        Raises what to tell when that would be longer than ``patience_seconds`` since ``began``.
        """
        wait = problem.wait_seconds
        if wait is None:
            longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (failures - 1))
            wait = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads requests
        until = time.monotonic() + wait
        if until > began + self.patience_seconds:
            raise problem.error
        if problem.wait_seconds is not None:
            self._not_before = max(self._not_before, until)
        if self._stopped.wait(wait):
            raise Stopped


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Return how long an answer asks to wait: ``retry-after-ms``, seconds, or an HTTP date."""
    milliseconds, given = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if given is None:
            return None
        return max(0.0, float(given))
    except ValueError:
        return _until(given or "")


def _until(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
