"""Where things lie in a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sintonia.sealed import (
    MANIFEST,
    hash_file,
    read_json,
    seal,
    sync_file,
    sync_folder,
    verify,
    write_atomically,
    write_json,
)

__all__ = [
    "MANIFEST",
    "AttemptFolder",
    "RunFolder",
    "hash_file",
    "read_json",
    "seal",
    "step_folder_name",
    "step_of",
    "sync_file",
    "sync_folder",
    "verify",
    "write_atomically",
    "write_json",
]


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def spec(self) -> Path:
        """``spec.json``."""
        return self.path / "spec.json"

    @property
    def data(self) -> Path:
        """The folder of the job's own copies of its files."""
        return self.path / "data"

    @property
    def measured(self) -> Path:
        """``measured.json``."""
        return self.path / "measured.json"

    @property
    def lock(self) -> Path:
        """``run.lock``."""
        return self.path / "run.lock"

    @property
    def references(self) -> Path:
        """What the starting model thought of each answer, a folder for each data file."""
        return self.path / "references"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of epoch ends, one folder for each."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Resume points between the checkpoints."""
        return self.path / "snapshots"

    def attempt(self, number: int) -> AttemptFolder:
        """Return the folder of one launch; numbers begin at 1."""
        return AttemptFolder(self.path / f"attempt-{number}")

    def next_attempt(self) -> AttemptFolder:
        """Return the folder of a launch that comes after all that were made."""
        names = (path.name.removeprefix("attempt-") for path in self.path.glob("attempt-*"))
        return self.attempt(1 + max((int(name) for name in names if name.isdecimal()), default=0))

    def resume_points(self) -> list[Path]:
        """Return the folders to resume from, newest step first, unverified."""
        found = [*self.checkpoints.glob("step-*"), *self.snapshots.glob("step-*")]
        return sorted(found, key=step_of, reverse=True)


@dataclass(frozen=True)
class AttemptFolder:
    """Paths of one launch."""

    path: Path

    @property
    def number(self) -> int:
        """The attempt's number, the fencing token."""
        return int(self.path.name.removeprefix("attempt-"))

    @property
    def records(self) -> Path:
        """``records.jsonl``."""
        return self.path / "records.jsonl"

    @property
    def output(self) -> Path:
        """``output.log``."""
        return self.path / "output.log"

    @property
    def heartbeat(self) -> Path:
        """``heartbeat``."""
        return self.path / "heartbeat"

    @property
    def exit(self) -> Path:
        """``exit.json``."""
        return self.path / "exit.json"


def step_folder_name(step: int) -> str:
    """Return ``step-000200``."""
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """Return the step that a checkpoint's folder name says."""
    return int(folder.name.removeprefix("step-"))
