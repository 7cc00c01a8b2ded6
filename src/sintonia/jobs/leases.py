"""Keeps a claim alive while somebody works on its job."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from sintonia.errors import SintoniaError
from sintonia.store import Claim
from sintonia.store.queue import Queue

BEATS_A_LEASE = 3

_log = logging.getLogger(__name__)


class KeptClaim:
    """A context in which a thread renews the lease of a claim.

    The thread ends by itself when the claim is lost: writers learn of that from their writes.
    """

    def __init__(self, queue: Queue, claim: Claim) -> None:
        self._queue = queue
        self._claim = claim
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._claim.lease_seconds / BEATS_A_LEASE):
            try:
                if not self._queue.heartbeat(self._claim):
                    return
            except SintoniaError as problem:  # busy or full: the next beat may succeed
                _log.warning("no heartbeat for %s: %s", self._claim.job.id, problem)
