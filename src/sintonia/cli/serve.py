"""``serve`` and ``stop``: one server per home, made of three processes kept alive.

The API answers, the worker runs jobs, the engine generates. Each can die alone and is
started again. ``server.json`` appears once the server is ready and goes when it ends.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.panel import Panel

from sintonia import settings as settings_module
from sintonia.cli.background import start_in_background, stop_server
from sintonia.cli.client import Client, is_loopback_host
from sintonia.cli.homes import ServerFolder, ServerRecord, last_lines, live_trainers
from sintonia.cli.output import console, print_note
from sintonia.cli.supervisor import ChildSpec, Supervisor
from sintonia.cli.version import version
from sintonia.errors import InvalidValue, PortInUse, ServerUnreachable
from sintonia.settings import Settings

POLL_SECONDS = 0.2
FIRST_DEATHS_ALLOWED = 3
"""A child that dies this often before the server was ever ready will not get better."""
STALE_PORT_SECONDS = 5.0
"""How long a port may stay taken by the children of a server that was killed a moment ago."""


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; loopback only.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 0 takes any free one.", show_default=False),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background; end it with `stop`.")
    ] = False,
    on_demand: Annotated[bool, typer.Option("--on-demand", hidden=True)] = False,
) -> None:
    """Run the server: the API, the worker that trains and the engine that answers."""
    settings = settings_module.load(host=host, port=port)
    check_host(settings.host)
    folder = ServerFolder(settings.home)
    folder.make()
    if detach:
        record = start_in_background(settings, on_demand=False)
        console().print(welcome(record, settings.home, how_to_stop="`sintonia stop`"))
        return
    with folder.hold() as was_killed, stop_signals() as stop:
        # The children of a server that was killed a moment ago are just ending.
        patience = STALE_PORT_SECONDS if was_killed else 0.0
        port = free_port(settings.host, settings.port, patience_seconds=patience)
        record = _record(settings, port, on_demand=on_demand)
        supervise(folder, record, children(settings, port), stop)


def stop() -> None:
    """End the server of this home; jobs that train go on with the next server."""
    settings = settings_module.load()
    folder = ServerFolder(settings.home)
    pid = folder.pid()
    if pid is None:
        console().print(f"No server runs in {settings.home}.")
        return
    trainers = live_trainers(settings.home)
    stop_server(folder, pid)
    console().print(f"The server of {settings.home} (process {pid}) has ended.")
    _tell_of_trainers(trainers)


def check_host(host: str) -> None:
    """Raise ``InvalidValue`` for an address that other machines could reach."""
    if is_loopback_host(host):
        return
    raise InvalidValue(
        f"Host {host}: only this machine's own addresses (127.0.0.1, ::1, localhost) are allowed, "
        "because anybody who reaches the server could use it: it has no API keys yet. "
        "Leave --host out; from another machine use an SSH tunnel.",
        param="host",
    )


def free_port(host: str, port: int, *, patience_seconds: float = 0.0) -> int:
    """Return ``port``, or any free one for 0. Raises ``PortInUse`` after ``patience_seconds``."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _bind(host, port)
        except OSError as problem:
            if problem.errno == errno.EACCES:
                raise PortInUse(
                    f"Port {port}: this user may not listen on it. Choose one above 1023."
                ) from None
            if problem.errno != errno.EADDRINUSE:
                raise InvalidValue(
                    f"Host {host}: this machine cannot listen there ({problem.strerror})."
                ) from None
            if time.monotonic() >= deadline:
                raise PortInUse(
                    f"Port {port} of {host}: another program listens there. "
                    "Choose another with --port (0 takes any free one) or end that program."
                ) from None
        time.sleep(0.2)


def children(settings: Settings, port: int) -> tuple[ChildSpec, ...]:
    """Return the processes of a server."""
    logs = ServerFolder(settings.home).logs
    api = ("--host", settings.host, "--port", str(port), "--until-stdin-closes")
    commands = {
        "api": ("sintonia.api", *api),
        "worker": ("sintonia.jobs.worker",),
        "engine": ("sintonia.generation.host", "--until-stdin-closes"),
    }
    return tuple(
        ChildSpec(name, (sys.executable, "-P", "-m", *command), logs / f"{name}.log")
        for name, command in commands.items()
    )


def supervise(
    folder: ServerFolder,
    record: ServerRecord,
    specs: Sequence[ChildSpec],
    stop: threading.Event,
) -> None:
    """Run the children until ``stop`` is set; announce the server once it is ready.

    Raises ``ServerUnreachable`` when a child keeps dying before that.
    """
    environment = {**os.environ, "SINTONIA_HOME": str(folder.home)}
    supervisor = Supervisor(specs, environment, report=print_note)
    announcement = _Announcement(folder, record)
    supervisor.start()
    try:
        while not stop.wait(POLL_SECONDS):
            supervisor.revive()
            if not announcement.is_made and not announcement.try_to_make():
                _give_up_on_hopeless(supervisor)
    finally:
        folder.record.unlink(missing_ok=True)
        trainers = live_trainers(folder.home)
        supervisor.stop()
    _tell_of_trainers(trainers)


@dataclass
class _Announcement:
    """Says once where the server is, when it is ready."""

    folder: ServerFolder
    record: ServerRecord
    is_made: bool = False

    def try_to_make(self) -> bool:
        with Client(self.record.url, timeout=httpx.Timeout(1.0)) as client:
            self.is_made = client.is_alive("/health/ready")
        if self.is_made:
            self.folder.write(self.record)
            console().print(welcome(self.record, self.folder.home, how_to_stop="Ctrl-C"))
        return self.is_made


def welcome(record: ServerRecord, home: Path, *, how_to_stop: str) -> Panel:
    """Return the panel that tells how to use a server."""
    text = (
        f"Sintonia {record.version} answers at {record.url}/v1\n\n"
        "Point the OpenAI SDK at it:\n"
        f'  client = OpenAI(base_url="{record.url}/v1", api_key="none")\n\n'
        f"Home: {home}    Logs: {home / 'logs'}\n"
        f"End it with {how_to_stop}."
    )
    return Panel(text, expand=False)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C, SIGTERM and a closed terminal set."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(settings: Settings, port: int, *, on_demand: bool) -> ServerRecord:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    return ServerRecord(os.getpid(), settings.host, port, url, version(), on_demand)


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _give_up_on_hopeless(supervisor: Supervisor) -> None:
    spec, failures = supervisor.most_failed()
    if failures < FIRST_DEATHS_ALLOWED:
        return
    raise ServerUnreachable(
        f"The server did not start: its {spec.name} ended {failures} times. "
        f"The last lines of {spec.log}:\n{last_lines(spec.log, 8)}"
    )


def _tell_of_trainers(job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        print_note(f"{job_id} goes on training; the next server takes it over.")
