"""A migration: list, then read each thing in a few threads and store it in order.

Threads read; the caller's thread alone writes the store, the oldest first, so that what is here
is in the order in which it was made. At most a window of things is between the two, whatever
their number. Whatever ends a run, the next one lists again and reads what is not here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

from sintonia.domain.files import StoredFile
from sintonia.domain.imported import ImportedJob, Item, ItemKind, ItemState, Json
from sintonia.errors import (
    FileNotFound,
    InvalidValue,
    JobNotFound,
    PayloadTooLarge,
    RemoteError,
)
from sintonia.migration.objects import ENDED, file_of, is_id, job_of
from sintonia.migration.pace import Pace
from sintonia.migration.remote import Remote
from sintonia.migration.spool import Spool
from sintonia.migration.survey import list_all
from sintonia.store import Store

T = TypeVar("T")
R = TypeVar("R")

LISTING = "listing"
EVENTS_PAGE = 100
CHECKPOINTS_PAGE = 100
_OF_ALL = (401, 429, 503)
"""Statuses that concern every request and not the thing that was asked for."""


@dataclass(frozen=True)
class FetchedFile:
    """A file whose bytes are staged."""

    item: Item
    file: StoredFile
    remark: str | None = None


@dataclass(frozen=True)
class FetchedJob:
    """A job with everything that belongs to it."""

    item: Item
    job: ImportedJob
    events: Spool = field(default_factory=Spool)
    checkpoints: Spool = field(default_factory=Spool)


Fetched = FetchedFile | FetchedJob | Item
"""An item alone is one that brings nothing new: lost, or here already."""


@dataclass
class Tally:
    """How far a run is, for whoever shows it."""

    phase: str = LISTING
    files: int = 0
    jobs: int = 0
    bytes: int = 0
    lost: int = 0
    left: int = 0
    """Items of this phase that are still to be read."""

    @property
    def is_listing(self) -> bool:
        """Tell whether nothing is known yet."""
        return self.phase == LISTING


Watch = Callable[[Tally], None]


@dataclass(frozen=True)
class Migration:
    """One run."""

    remote: Remote
    store: Store
    pace: Pace
    threads: int
    watch: Watch = lambda _tally: None

    def run(self) -> list[str]:
        """Bring everything over; return ids of the server's lists that are none.

        Raises ``RemoteError`` for a key that is refused, ``ServerUnreachable`` when the server
        stays away, ``InsufficientStorage`` and what the store raises. Every item that is not
        done then is read by the next run.
        """
        tally = Tally()
        self.watch(tally)
        try:
            odd = list_all(self.remote, self.store.manifest)
            self._move(ItemKind.FILE, self._file, tally)
            self._move(ItemKind.JOB, self._job, tally)
        finally:
            self.pace.stop()
        return odd

    def _move(self, kind: ItemKind, fetch: Callable[[Item], Fetched], tally: Tally) -> None:
        manifest = self.store.manifest
        tally.phase = f"{kind}s"
        tally.left = manifest.num_pending(self.remote.url, kind)
        self.watch(tally)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="migrate") as pool:
            try:
                items = manifest.pending(self.remote.url, kind)
                for fetched in _in_order(pool, fetch, items, window=2 * self.threads):
                    self._keep(fetched, tally)
                    tally.left -= 1
                    self.watch(tally)
            except BaseException:  # Ctrl-C too: what waits is not begun, what runs ends
                self.pace.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _keep(self, fetched: Fetched, tally: Tally) -> None:
        manifest = self.store.manifest
        match fetched:
            case FetchedFile():
                manifest.keep_file(fetched.item, fetched.file, fetched.remark)
                tally.files += 1
                tally.bytes += fetched.file.size_bytes
            case FetchedJob():
                with closing(fetched.events), closing(fetched.checkpoints):
                    manifest.keep_job(
                        fetched.item, fetched.job, fetched.events, fetched.checkpoints
                    )
                tally.jobs += 1
            case Item():
                manifest.settle(fetched)
                tally.lost += fetched.state is ItemState.LOST

    def _file(self, item: Item) -> Fetched:
        """Stage a file's content, unless it is here or cannot be had."""
        try:
            return self._file_here(item, self.store.files.get(item.id))
        except FileNotFound:
            pass
        try:
            found = dict(item.object or self.remote.object(f"files/{item.id}"))
            item = dataclasses.replace(item, object=found)
            draft = file_of(item.id, found)
            return self._content(item, draft)
        except (InvalidValue, PayloadTooLarge, RemoteError) as problem:
            return _lost(item, problem)

    def _content(self, item: Item, draft: StoredFile) -> FetchedFile:
        def stage(chunks: Iterator[bytes]) -> StoredFile:
            return self.store.manifest.stage(draft, chunks)

        staged = self.remote.content(item.id, stage)
        expected = (item.object or {}).get("bytes")
        if staged.size_bytes == expected or not isinstance(expected, int):
            return FetchedFile(item, staged)
        again = self.remote.content(item.id, stage)  # a size that is wrong by chance is not twice
        remark = None
        if again.size_bytes != expected:
            remark = (
                f"{again.size_bytes} bytes came, though the server says {expected}; the second "
                f"reading gave {'the same' if again.sha256 == staged.sha256 else 'other'} bytes."
            )
        return FetchedFile(item, again, remark)

    def _file_here(self, item: Item, file: StoredFile) -> Item:
        """Say that an id is taken here: by the same file, or by another one."""
        size = (item.object or {}).get("bytes", file.size_bytes)
        if size != file.size_bytes:
            reason = f"another file of {file.size_bytes} bytes has this id here already"
            return dataclasses.replace(item, state=ItemState.LOST, reason=reason)
        return dataclasses.replace(
            item,
            state=ItemState.DONE,
            reason="It was here already.",
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )

    def _job(self, item: Item) -> Fetched:
        """Read a job's events and checkpoints, unless the job is one of ours."""
        try:
            self.store.jobs.get(item.id)
        except JobNotFound:
            pass
        else:
            reason = "It was here already."
            return dataclasses.replace(item, state=ItemState.DONE, reason=reason)
        try:
            job = job_of(item.id, self.remote.url, item.object or {})
            has_ended = (item.object or {}).get("status") in ENDED
            state = ItemState.DONE if has_ended else ItemState.OPEN
            fetched = FetchedJob(dataclasses.replace(item, state=state, reason=None), job)
            place = f"fine_tuning/jobs/{item.id}"
            self._read(f"{place}/events", EVENTS_PAGE, fetched.events)
            self._read(f"{place}/checkpoints", CHECKPOINTS_PAGE, fetched.checkpoints)
        except (InvalidValue, RemoteError) as problem:
            return _lost(item, problem)
        return fetched

    def _read(self, path: str, limit: int, spool: Spool) -> None:
        for page in self.remote.pages(path, limit):
            spool.add(line for line in page if _fits(line))


def _fits(line: Json) -> bool:
    return is_id(line["id"])


def _lost(item: Item, problem: InvalidValue | PayloadTooLarge | RemoteError) -> Item:
    """Say why something could not be had. Raises what concerns every other thing as well."""
    reason = problem.message
    if isinstance(problem, RemoteError):
        if problem.http_status in _OF_ALL:
            raise problem
        if problem.http_status == 404:
            reason = "It is not there any more: it was deleted, or it expired."
    return dataclasses.replace(item, state=ItemState.LOST, reason=reason)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], window: int
) -> Iterator[R]:
    """Yield what ``function`` makes of each item, in order, with few of them begun at once."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) >= window:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
