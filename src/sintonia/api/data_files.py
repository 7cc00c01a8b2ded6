"""What the platform says of a file that it takes in."""

from __future__ import annotations

from pathlib import Path

from sintonia.data.validate import validate
from sintonia.domain.files import FilePurpose, FileStatus

Verdict = tuple[FileStatus, str | None]
"""A file's status and its details."""


def verdict_on(path: Path, purpose: FilePurpose) -> Verdict:
    """Return whether a file can be used for its purpose, and what is wrong with it.

    Only the rows of files for tuning are looked at. Their number is checked when a job says
    whether the file is for training.
    """
    if purpose is not FilePurpose.FINE_TUNE:
        return FileStatus.PROCESSED, None
    report = validate(path, min_examples=1)
    if report.is_valid:
        return FileStatus.PROCESSED, None
    first = f"Invalid file format. {report.summary()}"
    details = first if report.num_problems == 1 else "\n".join((first, *report.listing()))
    return FileStatus.ERROR, details
