"""Writing so that a crash cannot tear: atomic files and sealed folders.

The order of writes is the invariant: temporary name, fsync, rename, fsync of the folder. A
reader sees the old content or the new, never a third. A folder is sealed when it has a
manifest with the sha256 of each of its files; the manifest is written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sintonia import failpoints
from sintonia.errors import DamagedCheckpoint

MANIFEST = "manifest.json"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors that a full disk, or a full share of it, gives."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file: temporary, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk needs the room
        raise
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


def seal(
    folder: Path,
    final: Path,
    facts: Mapping[str, Any] | None = None,
    *,
    may_rename: Callable[[], None] = lambda: None,
) -> str:
    """Turn a finished temporary ``folder`` into ``final``; return the manifest's sha256.

    Each file is synced and hashed, the manifest is written last, then the folder is renamed.
    ``final`` may exist already (a step repeated after a resume): it is replaced. ``may_rename``
    is called just before; what it raises leaves ``final`` as it is.
    """
    failpoints.reach("checkpoint.fsync")
    files = sorted(p for p in folder.iterdir() if p.name != MANIFEST)
    hashes = {}
    for path in files:
        sync_file(path)
        hashes[path.name] = hash_file(path)
    write_json(folder / MANIFEST, {"files": hashes, **(facts or {})})
    failpoints.reach("checkpoint.rename")
    may_rename()
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    folder.rename(final)
    failpoints.reach("checkpoint.dirsync")
    sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return hash_file(final / MANIFEST)


def verify(folder: Path) -> dict[str, Any]:
    """Check a sealed folder against its manifest and return the manifest.

    Raises ``DamagedCheckpoint`` before any content is used.
    """
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        files = manifest["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(f"{folder.name} has no readable manifest.") from None
    for name, sha256 in files:
        path = folder / name
        if not path.is_file() or hash_file(path) != sha256:
            raise DamagedCheckpoint(f"{folder.name}: {name} is not what its manifest promises.")
    return manifest
