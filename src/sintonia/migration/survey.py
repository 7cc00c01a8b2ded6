"""What another server holds, listed into the manifest, or only counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sintonia.domain.imported import ItemKind
from sintonia.migration.objects import by_id, files_of
from sintonia.migration.remote import Remote
from sintonia.store.manifest import Manifest

FILES_PAGE = 1000
JOBS_PAGE = 100


@dataclass
class Counts:
    """How much there is, by the purpose of files and the status of jobs."""

    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    models: int = 0
    """Tuned models, whose weights stay where they are."""


def count(remote: Remote) -> Counts:
    """Return what a server holds; nothing is stored. Raises like ``Remote.pages``."""
    counts = Counts()
    for page in remote.pages("files", FILES_PAGE):
        for file in page:
            size, purpose = file.get("bytes"), str(file.get("purpose"))
            counts.files[purpose] += 1
            counts.bytes[purpose] += size if isinstance(size, int) else 0
    for page in remote.pages("fine_tuning/jobs", JOBS_PAGE):
        for job in page:
            counts.jobs[str(job.get("status"))] += 1
            counts.models += bool(job.get("fine_tuned_model"))
    return counts


def list_all(remote: Remote, manifest: Manifest) -> list[str]:
    """Take everything that a server has into the manifest; return ids that are none.

    Files that only a job names are taken in too: the list of files may not have them.
    Raises like ``Remote.pages``.
    """
    odd: list[str] = []
    for page in remote.pages("files", FILES_PAGE):
        found, wrong = by_id(page)
        odd += wrong
        manifest.note(remote.url, ItemKind.FILE, found)
    for page in remote.pages("fine_tuning/jobs", JOBS_PAGE):
        found, wrong = by_id(page)
        odd += wrong
        manifest.note(remote.url, ItemKind.JOB, found)
        named = [file_id for job in found.values() for file_id in files_of(job or {})]
        manifest.note(remote.url, ItemKind.FILE, dict.fromkeys(named))
    return odd
