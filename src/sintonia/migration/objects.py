"""The wire's objects as facts: what must be right of them before anything of them is stored.

An id becomes the name of a blob and a part of paths, so only ids in OpenAI's form are taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sintonia.domain.files import FilePurpose, FileStatus, StoredFile
from sintonia.domain.imported import ImportedJob, Json
from sintonia.errors import InvalidValue

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LATEST = 2**53
ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""Statuses of jobs in which nothing more happens."""


def is_id(value: object) -> bool:
    """Tell whether ``value`` has the form of an id and is safe as a name."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def by_id(page: Iterable[Json]) -> tuple[dict[str, Json | None], list[str]]:
    """Return the objects of a page by id, and those ids that are none."""
    found: dict[str, Json | None] = {}
    wrong = []
    for item in page:
        if is_id(item["id"]):
            found[item["id"]] = item
        else:
            wrong.append(repr(item["id"])[:80])
    return found, wrong


def files_of(job: Mapping[str, Any]) -> list[str]:
    """Return the ids of the files that a job names."""
    results = job.get("result_files")
    named = [job.get("training_file"), job.get("validation_file")]
    named += results if isinstance(results, list) else []
    return [file_id for file_id in named if isinstance(file_id, str) and is_id(file_id)]


def file_of(file_id: str, found: Mapping[str, Any]) -> StoredFile:
    """Return a file, without size and hash, as it will be here. Raises ``InvalidValue``.

    It does not expire here, even if it would have there.
    """
    purpose = found.get("purpose")
    if purpose not in {known.value for known in FilePurpose}:
        raise InvalidValue(f"its purpose {purpose!r} is unknown here")
    details = found.get("status_details")
    return StoredFile(
        id=file_id,
        filename=_filename(found.get("filename"), file_id),
        purpose=FilePurpose(purpose),
        size_bytes=0,
        sha256="",
        created_at=_moment(found),
        status=FileStatus.ERROR if found.get("status") == "error" else FileStatus.PROCESSED,
        status_details=details if isinstance(details, str) else None,
    )


def job_of(job_id: str, source: str, found: Mapping[str, Any]) -> ImportedJob:
    """Return a job as it will be here. Raises ``InvalidValue`` for what is no job."""
    if not isinstance(found.get("status"), str):
        raise InvalidValue("it has no status, so it is no fine-tuning job")
    return ImportedJob(job_id, _moment(found), source, found)


def _moment(found: Mapping[str, Any]) -> int:
    moment = found.get("created_at")
    if not isinstance(moment, int) or isinstance(moment, bool) or not 0 <= moment < _LATEST:
        raise InvalidValue(f"its created_at {moment!r} is no time in seconds")
    return moment


def _filename(given: object, file_id: str) -> str:
    return given.replace("\0", "") if isinstance(given, str) and given else file_id
