"""A server in the background: started by a command, used by several, stopped by the last.

``connect`` is how every command gets its client: from ``--server``, from the live server of
the home, or from one that it starts. A server that was started on demand ends with the last
command that uses it, unless a job still waits or runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from sintonia.cli.client import Client, Json
from sintonia.cli.homes import ServerFolder, ServerRecord, is_last_user, last_lines
from sintonia.cli.output import error_console, print_note
from sintonia.errors import ServerUnreachable, SintoniaError
from sintonia.settings import Settings

START_SECONDS = 120.0
"""How long a server may take until it is ready."""
STOP_SECONDS = 30.0
"""How long a server may take to end."""
POLL_SECONDS = 0.1
AT_REST = ("succeeded", "failed", "cancelled", "paused")
"""Statuses of jobs that need no server."""


@contextmanager
def connect(settings: Settings, server: str | None = None) -> Iterator[Client]:
    """Give a client of the server to use. Raises ``ServerUnreachable``."""
    if server is not None:
        with Client(server) as client:
            client.check()
            yield client
        return
    folder = ServerFolder(settings.home)
    folder.make()
    with folder.use() as clients:
        record = _live_record(folder) or _start_with_a_word(settings)
        with Client(record.url) as client:
            try:
                yield client
            finally:
                if record.on_demand:
                    _leave(folder, record, client, clients)


def needs_server(job: Json) -> bool:
    """Tell whether a job waits or runs here; one that was brought over never does."""
    is_imported = bool((job.get("sintonia") or {}).get("imported_from"))
    return job["status"] not in AT_REST and not is_imported


def lasting_url(settings: Settings, client: Client) -> str:
    """Return where the models can be asked later: an on-demand server will be gone by then."""
    record = ServerFolder(settings.home).read()
    if record is not None and record.on_demand and record.url == client.url:
        return f"http://{settings.host}:{settings.port}"
    return client.url


def start_in_background(
    settings: Settings, *, on_demand: bool, port: int | None = None
) -> ServerRecord:
    """Start a server that outlives this process; return its record once it is ready.

    Raises ``AlreadyRunning`` when the home has one, unless ``on_demand``, and
    ``ServerUnreachable`` with the server's last words when it ends instead.
    """
    folder = ServerFolder(settings.home)
    folder.make()
    if not on_demand:  # else another command may just be starting the same one
        folder.refuse_second()
    log = folder.logs / "server.log"
    options = ["--host", settings.host, "--port", str(settings.port if port is None else port)]
    options += ["--on-demand"] if on_demand else []
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sintonia.cli", "serve", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SINTONIA_HOME": str(settings.home), "COLUMNS": "200"},
            start_new_session=True,
        )
    try:
        record = _wait_until_ready(folder, process)
    except (KeyboardInterrupt, SystemExit):
        # It has a session of its own: the terminal's Ctrl-C did not reach it.
        process.terminate()
        process.wait(STOP_SECONDS)
        raise
    if record is None:
        words = last_lines(log, 10, begin=begin).strip().removeprefix("Error: ")
        raise ServerUnreachable(words or f"The server did not start. Its log is {log}.")
    return record


def stop_server(folder: ServerFolder, pid: int) -> None:
    """End a server and wait for it. Raises ``ServerUnreachable`` when it does not end."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + STOP_SECONDS
    while folder.is_locked():
        if time.monotonic() > deadline:
            raise ServerUnreachable(
                f"The server of {folder.home} (process {pid}) does not end. "
                f"Its log is {folder.logs / 'server.log'}."
            )
        time.sleep(POLL_SECONDS)


def _live_record(folder: ServerFolder) -> ServerRecord | None:
    """Return the live server's record; wait for one that is starting."""
    deadline = time.monotonic() + START_SECONDS
    while folder.is_locked():
        record = folder.read()
        if record is not None:
            return record
        if time.monotonic() > deadline:
            raise ServerUnreachable(
                f"The server of {folder.home} is running but not ready. Its logs are in "
                f"{folder.logs}; `sintonia stop` ends it."
            )
        time.sleep(POLL_SECONDS)
    return None


def _start_with_a_word(settings: Settings) -> ServerRecord:
    with error_console().status("Starting a server ..."):
        return start_in_background(settings, on_demand=True, port=0)


def _wait_until_ready(
    folder: ServerFolder, process: subprocess.Popen[bytes]
) -> ServerRecord | None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        record = folder.read()
        if record is not None:
            return record
        if process.poll() is not None and not folder.is_locked():
            return None
        time.sleep(POLL_SECONDS)
    process.terminate()
    return None


def _leave(folder: ServerFolder, record: ServerRecord, client: Client, clients: IO[bytes]) -> None:
    """Stop an on-demand server unless another command or a job still needs it."""
    if not is_last_user(clients):
        return
    try:
        unfinished = [job["id"] for job in client.jobs() if needs_server(job)]
    except SintoniaError:
        unfinished = []
    if unfinished:
        print_note(
            f"The server at {record.url} goes on in the background for {', '.join(unfinished)}; "
            "end it with `sintonia stop`."
        )
        return
    stop_server(folder, record.pid)
