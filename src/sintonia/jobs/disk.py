"""What a home's disk holds, and what of it can go.

Invariant: nothing is called removable that a job, a model or a file still needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import fsspec

from sintonia.domain.jobs import Job
from sintonia.domain.models import ModelKind
from sintonia.sealed import read_json
from sintonia.settings import Settings
from sintonia.store import Store

YOUNG_SECONDS = 3600.0
"""What is younger may belong to something that is being written right now."""
PAGE_ITEMS = 1000


class ItemKind(StrEnum):
    """What something on the disk is."""

    BASE = "base model"
    TUNED = "tuned model"
    FILE = "file"
    ORPHAN = "orphaned file"
    RUN = "run"
    BATCH = "batch"
    CACHE = "cache"
    DOWNLOAD = "download"
    UPLOAD = "upload"
    LOG = "log"
    DATABASE = "database"


@dataclass(frozen=True)
class Item:
    """Something on the disk."""

    kind: ItemKind
    name: str
    path: str
    """A path, or an fsspec URL."""
    size_bytes: int
    can_go: bool
    why: str
    """Why it can go, or why it has to stay."""


def survey(settings: Settings, store: Store) -> list[Item]:
    """Return everything of a home that takes space, by kind."""
    jobs = _all_jobs(store)
    return [
        *_bases(settings, store, jobs),
        *_tuned(settings, store, jobs),
        *_files(store),
        *_orphans(store),
        *_runs(settings, jobs),
        *_batches(settings, store),
        *_caches(settings, jobs),
        *_downloads(settings),
        *_uploads(settings),
        *_logs(settings),
        *_database(store),
    ]


def remove(items: Iterable[Item]) -> int:
    """Remove those of ``items`` that can go; return how many bytes that freed."""
    freed_bytes = 0
    for item in items:
        if not item.can_go:
            continue
        file_system, path = fsspec.core.url_to_fs(item.path)
        if file_system.exists(path):
            file_system.rm(path, recursive=True)
            freed_bytes += item.size_bytes
    return freed_bytes


def _bases(settings: Settings, store: Store, jobs: dict[str, Job]) -> Iterator[Item]:
    kinds = (ModelKind.TUNED, ModelKind.CHECKPOINT)
    needed = {model.base.name for model in store.models.list(kinds=kinds)}
    needed |= {job.draft.base_model for job in jobs.values() if not job.status.is_terminal}
    for folder in _children(settings.home / "models" / "base"):
        unused = f"no model or job needs it; `sintonia models delete {folder.name}` removes it"
        why = "a tuned model or a job needs it" if folder.name in needed else unused
        yield _folder_item(ItemKind.BASE, folder, "", why)


def _tuned(settings: Settings, store: Store, jobs: dict[str, Job]) -> Iterator[Item]:
    kinds = (ModelKind.TUNED, ModelKind.CHECKPOINT)
    models = store.models.list(kinds=kinds)
    names = {model.folder: model.name for model in models}
    bases = {model.base.folder for model in models} | set(_bases_in_use(settings, jobs))
    for folder in _children(settings.home / "models" / "tuned"):
        job = jobs.get(_job_id_of(folder))
        if str(folder) in names:
            yield _folder_item(ItemKind.TUNED, folder, "", f"it is {names[str(folder)]}")
        elif str(folder) in bases:  # a whole model, deleted by name
            yield _folder_item(ItemKind.TUNED, folder, "", "a tuned model or a job goes on from it")
        elif job is not None and not job.status.is_terminal:
            yield _folder_item(ItemKind.TUNED, folder, "", "its job is being finished")
        else:
            yield _folder_item(ItemKind.TUNED, folder, "its model was deleted", "")


def _bases_in_use(settings: Settings, jobs: dict[str, Job]) -> Iterator[str]:
    """Yield the base's folder of each run that has not ended."""
    for job in jobs.values():
        spec = settings.home / "runs" / job.id / "spec.json"
        if not job.status.is_terminal and spec.is_file():
            yield str(read_json(spec)["base"]["folder"])


def _files(store: Store) -> Iterator[Item]:
    for file in store.files.list().items:
        location = store.files.location(file.id)
        name = f"{file.filename} ({file.id})"
        why = "delete it with `sintonia files delete`"
        yield Item(ItemKind.FILE, name, location, file.size_bytes, can_go=False, why=why)


def _orphans(store: Store) -> Iterator[Item]:
    old = store.files.orphans(YOUNG_SECONDS)
    for name, size_bytes in store.files.orphans(0).items():
        location = store.files.location(name)
        is_old = name in old
        why = "an upload that was never finished" if is_old else "it may be being written"
        yield Item(ItemKind.ORPHAN, name, location, size_bytes, can_go=is_old, why=why)


def _runs(settings: Settings, jobs: dict[str, Job]) -> Iterator[Item]:
    for folder in _children(settings.home / "runs"):
        job = jobs.get(folder.name)
        if job is None:
            yield _folder_item(ItemKind.RUN, folder, "no job has this id", "")
        elif job.status.is_terminal and job.handle is None:
            yield _folder_item(ItemKind.RUN, folder, f"its job is over: {job.status}", "")
        else:
            yield _folder_item(ItemKind.RUN, folder, "", f"its job is not over: {job.status}")


def _batches(settings: Settings, store: Store) -> Iterator[Item]:
    active = {batch.id for batch in store.batches.active()}
    for folder in _children(settings.home / "batches"):
        removable = "" if folder.name in active else "its batch is over"
        if folder.is_dir():
            yield _folder_item(ItemKind.BATCH, folder, removable, "its batch is not over")


def _caches(settings: Settings, jobs: dict[str, Job]) -> Iterator[Item]:
    is_used = any(not job.status.is_terminal for job in jobs.values())
    for folder in _children(settings.home / "cache"):
        removable = "" if is_used else "it is made again when it is needed"
        yield _folder_item(ItemKind.CACHE, folder, removable, "a job that is not over may use it")


def _downloads(settings: Settings) -> Iterator[Item]:
    for path in _children(settings.home / "downloads"):
        if path.suffix in {".lock", ".log"}:
            continue
        removable = "it was left behind" if _is_old(path) else ""
        yield _folder_item(ItemKind.DOWNLOAD, path, removable, "it may be under way")


def _uploads(settings: Settings) -> Iterator[Item]:
    for folder in _children(settings.home / "uploads"):
        yield _folder_item(ItemKind.UPLOAD, folder, "", "it is arriving; a new server clears it")


def _logs(settings: Settings) -> Iterator[Item]:
    for path in _children(settings.home / "logs"):
        yield _folder_item(ItemKind.LOG, path, "", "it says what went wrong, and may be open")


def _database(store: Store) -> Iterator[Item]:
    for path in store.database_files():
        yield _folder_item(ItemKind.DATABASE, path, "", "it knows all jobs, files and models")


def _folder_item(kind: ItemKind, path: Path, why_removable: str, why_needed: str) -> Item:
    return Item(
        kind=kind,
        name=path.name,
        path=str(path),
        size_bytes=_size_bytes(path),
        can_go=bool(why_removable),
        why=why_removable or why_needed,
    )


def _all_jobs(store: Store) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    after = None
    while True:
        page = store.jobs.list(after=after, limit=PAGE_ITEMS)
        jobs |= {job.id: job for job in page.items}
        if not page.has_more:
            return jobs
        after = page.items[-1].id


def _job_id_of(folder: Path) -> str:
    """Return the job of ``ftjob-X``, ``ftjob-X-step-N`` or ``.ftjob-X.tmp``."""
    return "-".join(folder.name.lstrip(".").removesuffix(".tmp").split("-")[:2])


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def _is_old(path: Path) -> bool:
    newest = max((p.lstat().st_mtime for p in (path, *path.rglob("*"))), default=0.0)
    return time.time() - newest > YOUNG_SECONDS
