"""What is under way in ``downloads``: who holds a name, unfinished work, why the last try failed.

Invariant: only the process that holds the lock of a name works on it. The kernel gives the lock
back when that process dies; what it left behind is thrown away by the next holder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx import HTTPError

from sintonia.errors import DownloadFailed, SintoniaError
from sintonia.sealed import read_json, write_json


class Downloads:
    """The ``downloads`` folder of one home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log(self, name: str) -> Path:
        """Return where a fetching process of ``name`` writes what it has to say."""
        return self._folder / f"{name}.log"

    def take(self, name: str) -> int | None:
        """Take the lock of ``name`` and return its descriptor; ``None`` when another has it.

        A child process that inherits the descriptor holds the lock with its parent, and alone
        once that has closed it.
        """
        descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @contextmanager
    def held(
        self, name: str, on_wait: Callable[[], None] = lambda: None, lock: int | None = None
    ) -> Iterator[str | None]:
        """Hold ``name``, waiting for whoever has it; ``lock`` is a descriptor that does already.

        Yields why the holder that was waited for failed, or ``None``.
        """
        before = self._stamp(name)
        descriptor = lock if lock is not None else self.take(name)
        if descriptor is None:
            on_wait()
            descriptor = self._open_lock(name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield self.problem(name) if self._stamp(name) != before else None
        finally:
            os.close(descriptor)

    def is_held(self, name: str) -> bool:
        """Tell whether a process works on ``name`` now."""
        if not self._lock_file(name).exists():
            return False
        descriptor = self.take(name)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def problem(self, name: str) -> str | None:
        """Return why the last fetch of ``name`` failed; ``None`` when it did not."""
        try:
            message = read_json(self._problem_file(name))["message"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return message if isinstance(message, str) else None

    def forget_problem(self, name: str) -> None:
        """Forget why the last fetch of ``name`` failed."""
        self._problem_file(name).unlink(missing_ok=True)

    @contextmanager
    def remembered_problem(self, name: str) -> Iterator[None]:
        """Write down why a fetch failed; the disk's and the network's words become ours."""
        self.forget_problem(name)
        try:
            yield
        except (SintoniaError, OSError, HTTPError) as problem:
            told = problem if isinstance(problem, SintoniaError) else _failed(name, problem)
            write_json(self._problem_file(name), {"message": told.message})
            raise told from None

    @contextmanager
    def work_folder(self, name: str) -> Iterator[Path]:
        """Yield an empty folder for unfinished work; the caller holds ``name``.

        It is new each time, so that a child of a dead holder which still writes harms nobody.
        """
        works = self._folder / f"{name}.work"
        shutil.rmtree(works, ignore_errors=True)
        works.mkdir(parents=True, exist_ok=True)
        try:
            yield Path(tempfile.mkdtemp(dir=works))
        finally:
            shutil.rmtree(works, ignore_errors=True)

    def _open_lock(self, name: str) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        return os.open(self._lock_file(name), os.O_RDWR | os.O_CREAT, 0o600)

    def _lock_file(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _problem_file(self, name: str) -> Path:
        return self._folder / f"{name}.problem.json"

    def _stamp(self, name: str) -> tuple[int, int] | None:
        """Return what tells one remembered problem from the next."""
        try:
            status = self._problem_file(name).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def _failed(name: str, problem: Exception) -> DownloadFailed:
    reason = str(problem) or type(problem).__name__
    return DownloadFailed(
        f"{name} could not be fetched: {reason[:300]}. "
        f"Put that right, then run `sintonia models pull {name}`."
    )
