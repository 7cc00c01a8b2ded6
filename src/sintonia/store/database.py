"""The database: one engine, two kinds of transaction, and the schema brought up to date.

Invariants: a writer takes SQLite's write lock when it begins, so that it never fails half-way
for having read first; a commit survives a power cut; a schema change happens in one
transaction, by one process at a time.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from sintonia.errors import (
    InsufficientStorage,
    InvalidValue,
    ServerError,
    SettingInvalid,
    Unavailable,
)

BUSY_SECONDS = 10.0
"""How long a transaction waits for another writer before it gives up."""
MIGRATIONS = Path(__file__).with_name("migrations")


class Database:
    """Connections and transactions. Safe to use from many threads."""

    def __init__(self, url: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._engine = _engine(url, busy_seconds)
        self._writer = self._engine.execution_options(sintonia_write=True)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _configure_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction that sees one state of the database."""
        with _as_ours(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that commits when the block ends and rolls back when it raises.

        Raises ``Unavailable`` when other writers hold the database for longer than
        ``busy_seconds``, ``InsufficientStorage`` when the disk is full.
        """
        with _as_ours(), self._writer.begin() as connection:
            yield connection

    def migrate(self, lock_path: Path) -> None:
        """Bring the schema up to date, by one process at a time, in one transaction.

        Raises ``ServerError`` that names the database when it cannot be read or is of a newer
        version, and what ``write`` raises.
        """
        with lock_path.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            config.set_main_option("path_separator", "os")
            with self._opening(), self._writer.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Name the database in what goes wrong: only an operator reads it at this point."""
        place = self._engine.url.render_as_string(hide_password=True)
        try:
            with _as_ours():
                yield
        except CommandError as problem:
            raise ServerError(
                f"Database {place}: its tables are of a version that this program does not know "
                f"({problem}). Install the version of Sintonia that wrote it, or a newer one."
            ) from problem
        except ServerError as problem:
            raise ServerError(
                f"Database {place}: it cannot be opened ({_reason(problem)}). Check the file and "
                "its permissions or the setting database_url, or bring it back from a backup."
            ) from problem

    def files(self) -> list[Path]:
        """Return SQLite's files, its journals among them; none of another kind of database."""
        url = self._engine.url
        if self._engine.dialect.name != "sqlite" or not url.database:
            return []
        path = Path(url.database)
        parts = (path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
        return [part for part in parts if part.exists()]

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _engine(url: str, busy_seconds: float) -> sa.Engine:
    """Make the engine. Raises ``SettingInvalid`` for a URL that SQLAlchemy cannot use."""
    connect_args = {"timeout": busy_seconds} if url.startswith("sqlite") else {}
    try:
        return sa.create_engine(
            url, connect_args=connect_args, pool_size=8, max_overflow=64, pool_pre_ping=True
        )
    except (sa.exc.ArgumentError, ImportError, TypeError, ValueError) as problem:
        kind = url.partition("://")[0] if "://" in url else "no scheme"  # the rest has a password
        raise SettingInvalid(
            f"Setting database_url ({kind}): no database can be opened by it. Give an SQLAlchemy "
            "URL of a file or a server whose driver is installed, such as sqlite:////path/to/file, "
            "or leave it empty."
        ) from problem


def _reason(problem: ServerError) -> str:
    """Return what the driver said, in one line."""
    cause = problem.__cause__
    said = str(cause.orig) if isinstance(cause, sa.exc.DBAPIError) else str(cause or problem)
    return said.strip().partition("\n")[0]


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, DDL included
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    is_write = connection.get_execution_options().get("sintonia_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")


@contextmanager
def _as_ours() -> Iterator[None]:
    """Turn the driver's errors that an operator can do something about into ours."""
    try:
        yield
    except sa.exc.TimeoutError:
        raise Unavailable("The database has too many users at once. Try again.") from None
    except sa.exc.IntegrityError:
        raise
    except sa.exc.DBAPIError as problem:
        raise _translated(str(problem.orig)) from problem
    except UnicodeEncodeError:
        raise InvalidValue(
            "A value holds half a character (a lone surrogate). Send text."
        ) from None
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise InsufficientStorage("The disk is full. Free some space.") from problem
        raise


def _translated(text: str) -> Exception:
    if "locked" in text or "busy" in text:
        return Unavailable("The database is busy with another writer. Try again.")
    if "full" in text:
        return InsufficientStorage("The disk that holds the database is full. Free some space.")
    return ServerError("The database cannot be used. See the server's log for the reason.")
