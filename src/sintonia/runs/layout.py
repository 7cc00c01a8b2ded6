"""Where things lie in a run directory, and how they are written so that a crash cannot tear them.

The order of writes is the invariant: temporary file, fsync, rename, fsync of the folder. A
reader sees the old content or the new, never a third.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintonia import failpoints
from sintonia.errors import DamagedCheckpoint

MANIFEST = "manifest.json"


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file: temporary, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically. NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_bytes())


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, final: Path, facts: Mapping[str, Any] | None = None) -> str:
    """Turn a finished temporary ``folder`` into ``final``; return the manifest's sha256.

    Each file is synced and hashed, the manifest is written last, then the folder is renamed.
    ``final`` may exist already (a step repeated after a resume): it is replaced.
    """
    failpoints.reach("checkpoint.fsync")
    files = sorted(p for p in folder.iterdir() if p.name != MANIFEST)
    hashes = {}
    for path in files:
        sync_file(path)
        hashes[path.name] = hash_file(path)
    write_json(folder / MANIFEST, {"files": hashes, **(facts or {})})
    failpoints.reach("checkpoint.rename")
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
    failpoints.reach("checkpoint.dirsync")
    sync_folder(final.parent)
    return hash_file(final / MANIFEST)


def verify(folder: Path) -> dict[str, Any]:
    """Check a sealed folder against its manifest and return the manifest.

    Raises ``DamagedCheckpoint`` before any content is used.
    """
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        files = manifest["files"].items()
    except (OSError, ValueError, KeyError, AttributeError):
        raise DamagedCheckpoint(f"{folder.name} has no readable manifest.") from None
    for name, sha256 in files:
        path = folder / name
        if not path.is_file() or hash_file(path) != sha256:
            raise DamagedCheckpoint(f"{folder.name}: {name} is not what its manifest promises.")
    return manifest
