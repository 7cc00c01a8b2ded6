"""A worker in a process of its own, to be killed: it launches the fake trainer."""

from __future__ import annotations

import logging
import signal
import threading

from worker_kit import open_context

from sintonia import failpoints, settings
from sintonia.jobs.worker import work
from sintonia.store import Store

logging.basicConfig(level=logging.INFO)
given = settings.load()
failpoints.arm(given.failpoint)
store = Store.open(given)
context = open_context(given, store)
signal.signal(signal.SIGTERM, lambda *_: context.stop.set())
threading.current_thread().name = "main"
work(context)
