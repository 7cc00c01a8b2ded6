"""Trainers as processes of this machine.

Invariant: a trainer that was started can be found again. It writes its process number into
the attempt's folder before anything else, so it does not matter when the worker dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sintonia.jobs.processes import ProcessId, find_process
from sintonia.runs.layout import RunFolder

TRAINER_COMMAND = (sys.executable, "-P", "-m", "sintonia.training.run")
PID_FILE = "pid"
POLL_SECONDS = 0.05

_WRITE_PID_THEN_RUN = 'echo $$ > "$0" && exec "$@"'


PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
"""Threads that wait give their core away, GNU's after a fraction of a millisecond: on a machine
that also serves, spinning on made a step ten times slower; sleeping at once, a sixth."""


class LocalExecutor:
    """Starts each trainer in a session of its own, so that it outlives the worker."""

    def __init__(self, command: Sequence[str] = TRAINER_COMMAND, *, niceness: int = 0) -> None:
        self._command = tuple(command)
        self._niceness = niceness
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def launch(self, run: RunFolder, attempt: int) -> str:
        """Run ``COMMAND RUN_DIR --attempt N``, its output in ``output.log``."""
        folder = run.attempt(attempt)
        folder.path.mkdir(parents=True, exist_ok=True)
        trainer = (*self._command, str(run.path), "--attempt", str(attempt))
        niced = ("nice", "-n", str(self._niceness), *trainer)
        with folder.output.open("ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _WRITE_PID_THEN_RUN, str(folder.path / PID_FILE), *niced],
                cwd=run.path,
                env={**PATIENT_THREADS, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = find_process(child.pid)
        assert process is not None, "a child that was not waited for exists"
        self._children[child.pid] = child
        return str(process)

    def find(self, run: RunFolder, attempt: int) -> str | None:
        """Return the trainer of an attempt, alive or dead, or ``None`` if none was started."""
        path = run.attempt(attempt).path / PID_FILE
        if not path.exists():
            return None
        pid = int(_when_written(path))
        process = find_process(pid)
        if process is None or str(run.path) not in process.arguments():
            return f"{pid}:gone"
        return str(process)

    def is_alive(self, handle: str) -> bool:
        """Tell whether the process runs."""
        process = ProcessId.parse(handle)
        child = self._children.get(process.pid)
        if child is not None and child.poll() is not None:
            self._children.pop(process.pid, None)
        return process.is_alive()

    def ask_to_stop(self, handle: str) -> None:
        """Send SIGTERM."""
        self._signal(handle, ProcessId.parse(handle).pid, signal.SIGTERM)

    def stop(self, handle: str, grace_seconds: float) -> None:
        """Send SIGTERM, then SIGKILL to the whole session; return once it has gone."""
        process = ProcessId.parse(handle)
        self.ask_to_stop(handle)
        if not self._has_gone_within(handle, grace_seconds):
            self._signal(handle, -process.pid, signal.SIGKILL)
            while self.is_alive(handle):
                time.sleep(POLL_SECONDS)

    def _signal(self, handle: str, target: int, number: signal.Signals) -> None:
        if not self.is_alive(handle):
            return
        try:
            os.kill(target, number)
        except ProcessLookupError:
            return

    def _has_gone_within(self, handle: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_alive(handle):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def _when_written(path: Path) -> str:
    """Return the file's text once its one line is whole; it is written in an instant."""
    deadline = time.monotonic() + 5
    while not (text := path.read_text()).endswith("\n") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return text or "0"
