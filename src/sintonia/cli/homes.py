"""The server of a home: who holds its lock, where it listens, how to find or start one.

::

    server.lock    held (flock) by the live server; holds its process id
    server.json    pid, host, port, url, version, on_demand; there only while it is ready
    clients.lock   held, shared, by every command that talks to the home's server
    logs/          server.log, api.log, worker.log, engine.log, cli.log

Invariant: the lock is the truth. A ``server.json`` whose lock is free is a leftover of a
server that was killed, and is not believed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from sintonia.errors import AlreadyRunning, ServerUnreachable, SettingInvalid
from sintonia.runs.layout import AttemptFolder
from sintonia.sealed import read_json, write_json

HEARTBEAT_SECONDS = 30.0
"""A trainer that has not touched its heartbeat for this long is taken for dead."""


@dataclass(frozen=True)
class ServerRecord:
    """What ``server.json`` says."""

    pid: int
    host: str
    port: int
    url: str
    """Without ``/v1``."""
    version: str
    on_demand: bool = False
    """Whether a command started it for itself; the last command to leave stops it."""


@dataclass(frozen=True)
class ServerFolder:
    """The places of a server in its home."""

    home: Path

    @property
    def record(self) -> Path:
        """``server.json``."""
        return self.home / "server.json"

    @property
    def lock(self) -> Path:
        """``server.lock``."""
        return self.home / "server.lock"

    @property
    def clients(self) -> Path:
        """``clients.lock``."""
        return self.home / "clients.lock"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.home / "logs"

    def make(self) -> None:
        """Make the home and its log folder. Raises ``SettingInvalid`` when that cannot be."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except OSError as problem:
            raise SettingInvalid(
                f"Home {self.home}: the folder cannot be made ({problem.strerror}). "
                "Set SINTONIA_HOME to a folder that you may write to."
            ) from None

    def write(self, record: ServerRecord) -> None:
        """Say where the server listens."""
        write_json(self.record, asdict(record))

    def read(self) -> ServerRecord | None:
        """Return what the server said, or ``None`` when there is no live one that did.

        Raises ``ServerUnreachable`` when a live one's ``server.json`` cannot be understood: it
        is written whole, so waiting would not mend it.
        """
        if not self.is_locked():
            return None
        try:
            record = ServerRecord(**read_json(self.record))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            record = None
        if record is None or not isinstance(record.url, str):
            raise ServerUnreachable(
                f"Home {self.home}: its server runs (process {self.pid() or 'unknown'}), but "
                f"{self.record} is damaged and does not say where. End the server with "
                "`sintonia stop`; the next command starts one."
            )
        return record

    def pid(self) -> int | None:
        """Return the process id of the live server, ready or not."""
        text = self.lock.read_text() if self.is_locked() else ""
        return int(text) if text.isdigit() else None

    def is_locked(self) -> bool:
        """Tell whether a server of this home is alive, ready or not."""
        if not self.lock.exists():
            return False
        with self.lock.open("rb") as file:
            return not _try_lock(file, fcntl.LOCK_SH)

    def refuse_second(self) -> None:
        """Raise ``AlreadyRunning`` when this home has a server, ready or not."""
        if self.is_locked():
            with self.lock.open() as file:
                raise AlreadyRunning(self._who_runs(file))

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Be the server of this home; tell whether the one before was killed.

        Raises ``AlreadyRunning`` when there is one.
        """
        with self.lock.open("a+") as file:
            if not _lock_patiently(file):
                raise AlreadyRunning(self._who_runs(file))
            was_killed = self.record.exists()
            self.record.unlink(missing_ok=True)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield was_killed
            finally:
                self.record.unlink(missing_ok=True)

    def _who_runs(self, lock: IO[str]) -> str:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        where = self._where()
        return (
            f"Home {self.home}: a server already runs there (process {pid}, {where}). "
            "Use that one, stop it with `sintonia stop`, or set SINTONIA_HOME to another folder."
        )

    def _where(self) -> str:
        try:
            record = self.read()
        except ServerUnreachable:
            return f"nobody knows where: {self.record.name} is damaged"
        return f"at {record.url}" if record else "not ready yet"

    @contextmanager
    def use(self) -> Iterator[IO[bytes]]:
        """Be one of the commands that use the server."""
        with self.clients.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield file


def is_last_user(clients: IO[bytes]) -> bool:
    """Tell whether no other command uses the server; from then on none can begin to."""
    return _try_lock(clients, fcntl.LOCK_EX)


def last_lines(path: Path, count: int, *, begin: int = 0) -> str:
    """Return the last lines of a text file, none of them before the byte ``begin``."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 64 * 1024))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-count:])


def live_trainers(home: Path) -> list[str]:
    """Return the jobs whose trainer has shown life lately and has not said how it ended."""
    newest = {
        folder.parent.name: AttemptFolder(folder)
        for folder in sorted(
            (home / "runs").glob("*/attempt-*"), key=lambda path: AttemptFolder(path).number
        )
    }
    return sorted(job_id for job_id, attempt in newest.items() if _is_alive(attempt))


def _is_alive(attempt: AttemptFolder) -> bool:
    if attempt.exit.exists() or not attempt.heartbeat.exists():
        return False
    return time.time() - attempt.heartbeat.stat().st_mtime < HEARTBEAT_SECONDS


def _lock_patiently(file: IO[str]) -> bool:
    """Take the server's lock; a command that looks whether it is held has it for an instant."""
    for _ in range(5):
        if _try_lock(file, fcntl.LOCK_EX):
            return True
        time.sleep(0.1)
    return False


def _try_lock(file: IO[bytes] | IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
