"""The base models of a home: which are there, which can be fetched, and fetching them.

Invariant: a folder under ``models/base`` with a manifest is whole; one without does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sintonia.catalog import Catalog
from sintonia.domain.models import BaseRef


@dataclass(frozen=True)
class BaseModel:
    """A base model that is on disk and whole."""

    ref: BaseRef
    license: str
    context_tokens: int
    learning_rate: float
    created_at: int


Progress = Callable[[str, float], None]
"""Called with what is being done and the part done, 0 to 1."""


class Library:
    """The base models of one home."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self.home = home
        self.catalog = catalog

    def installed(self) -> list[BaseModel]:
        """Return the models on disk, by name."""
        raise NotImplementedError

    def find(self, name: str) -> BaseModel | None:
        """Return the model called ``name`` when it is on disk. No alias is followed."""
        raise NotImplementedError

    def knows(self, name: str) -> bool:
        """Tell whether ``name`` is on disk or can be fetched. No alias is followed."""
        raise NotImplementedError

    def start_fetch(self, name: str) -> None:
        """Begin to fetch ``name`` in a process of its own, unless that is under way."""
        raise NotImplementedError

    def fetch_problem(self, name: str) -> str | None:
        """Return why the last fetch of ``name`` failed, or ``None``."""
        raise NotImplementedError

    def fetch(self, name: str, progress: Progress) -> BaseModel:
        """Fetch, check and convert ``name`` unless it is there.

        Raises ``ModelNotFound``, ``DownloadFailed``, ``CorruptDownload``, ``InsufficientStorage``.
        """
        raise NotImplementedError

    def add(self, name: str, folder: Path) -> BaseModel:
        """Copy a Hugging Face folder in under ``name``. Raises ``RefusedModel``."""
        raise NotImplementedError
