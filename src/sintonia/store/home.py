"""The store of one home: database and file store, opened together."""

from __future__ import annotations

from pathlib import Path

from sintonia.settings import Settings
from sintonia.store.batches import Batches
from sintonia.store.blobs import Blobs, Limits
from sintonia.store.database import Database
from sintonia.store.deployments import Deployments
from sintonia.store.files import Files
from sintonia.store.imported import ImportedJobs
from sintonia.store.jobs import Jobs
from sintonia.store.kept_answers import KeptAnswers
from sintonia.store.manifest import Manifest
from sintonia.store.models import Models
from sintonia.store.queue import Queue
from sintonia.store.uploads import Uploads

FOLDERS = ("models/base", "models/tuned", "runs", "batches", "cache", "logs")
"""Folders of a home beside the database and the files."""


class Store:
    """What is true of files, jobs, models and batches. Many processes may have it open at once."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self.files = Files(database, blobs)
        self.uploads = Uploads(database, blobs, self.files)
        """Files that arrive in parts."""
        self.kept_answers = KeptAnswers(database)
        self.jobs = Jobs(database)
        self.models = Models(database)
        self.batches = Batches(database)
        self.deployments = Deployments(database)
        self.imported = ImportedJobs(database)
        """Jobs that were brought over from other servers."""
        self.manifest = Manifest(database, blobs)
        """What a migration has seen and done."""
        self.queue = Queue(database)
        """The worker's side of the jobs."""

    @classmethod
    def open(cls, settings: Settings) -> Store:
        """Open the store, making folders and tables that are missing."""
        for folder in FOLDERS:
            (settings.home / folder).mkdir(parents=True, exist_ok=True)
        database = Database(settings.database)
        database.migrate(settings.home / "migration.lock")
        blobs = Blobs(settings.files, Limits(settings.max_file_bytes, settings.min_free_bytes))
        blobs.prepare()
        return cls(database, blobs)

    def database_files(self) -> list[Path]:
        """Return the files of an SQLite database; another one lies elsewhere."""
        return self._database.files()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
