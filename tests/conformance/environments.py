"""The client libraries that the matrix drives, each in an environment of its own.

``python tests/conformance/environments.py`` makes those that are missing under ``.conformance/``;
the newest Python library is the one of the development environment and needs nothing made.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = HERE / "sdk"
ROOT = HERE.parents[1] / ".conformance"

_PYTHON_SCENARIO = re.compile(r"^@scenario\n(?:async )?def (\w+)", re.MULTILINE)
_NODE_SCENARIO = re.compile(r'^scenario\("(\w+)"', re.MULTILINE)


@dataclass(frozen=True)
class Client:
    """One client library, and the scripts that drive a server through it."""

    name: str
    scripts: Sequence[str]
    folder: str | None
    """Its environment under ``.conformance``; ``None``: this process's own."""
    requirements: Sequence[str] = ()
    options: Sequence[str] = ()

    def scenarios(self) -> Iterator[tuple[str, str]]:
        """Yield the scripts, each with the names of what it does, in order."""
        for script in self.scripts:
            source = (SCRIPTS / script).read_text(encoding="utf-8")
            pattern = _NODE_SCENARIO if self.is_node else _PYTHON_SCENARIO
            yield from ((script, name) for name in pattern.findall(source))

    @property
    def is_node(self) -> bool:
        """Whether the library is JavaScript."""
        return self.scripts[0].endswith(".mjs")

    @property
    def is_made(self) -> bool:
        """Whether its environment is there."""
        if self.folder is None:
            return find_spec("openai") is not None
        return (ROOT / self.folder / ".ready").exists()

    def command(
        self, script: str, base_url: str, api_key: str, model: str, seconds: float
    ) -> list[str]:
        """Return the command that runs a script against a server."""
        path = str(SCRIPTS / script)
        if self.is_node:
            modules = str(ROOT / str(self.folder))
            return ["node", path, modules, base_url, api_key, model, str(seconds)]
        python = str(_python(ROOT / self.folder)) if self.folder else sys.executable
        target = ["--base-url", base_url, "--api-key", api_key, "--model", model]
        return [python, path, *target, "--job-seconds", str(seconds), *self.options]

    def make(self) -> None:
        """Make its environment, unless it is there."""
        if self.folder is None or self.is_made:
            return
        folder = ROOT / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_node:
            _run("npm", "install", "--no-audit", "--no-fund", "--prefix", folder, "openai@latest")
        else:
            venv.create(folder, with_pip=True, clear=True)
            _run(_python(folder), "-m", "pip", "install", "--quiet", *self.requirements)
        (folder / ".ready").touch()


def _newest() -> str:
    try:
        return f"openai {metadata.version('openai')}"
    except metadata.PackageNotFoundError:
        return "openai newest"


_MODERN = ("modern.py", "modern_files.py", "modern_answers.py", "modern_azure.py")


def _both(name: str, folder: str | None, *requirements: str) -> tuple[Client, Client]:
    return (
        Client(name, _MODERN, folder, requirements),
        Client(f"{name} async", _MODERN, folder, requirements, ("--async",)),
    )


_LEGACY = ("openai==0.28.1", "aiohttp", "requests", "setuptools<81")
_LEGACY_SCRIPTS = ("legacy.py", "legacy_answers.py", "legacy_first.py", "legacy_azure.py")
_LAST_WITH_CLI = "openai==2.34.0"
CLIENTS = (
    *_both(_newest(), None),
    *_both("openai 2.34.0", "openai-2.34.0", _LAST_WITH_CLI),
    *_both("openai 1.109.1", "openai-1.109.1", "openai==1.109.1"),
    Client("openai 0.28.1", _LEGACY_SCRIPTS, "openai-0.28.1", _LEGACY),
    Client("openai 2.34.0 command line", ("modern_cli.py",), "openai-2.34.0", (_LAST_WITH_CLI,)),
    Client("openai 0.28.1 command line", ("legacy_cli.py",), "openai-0.28.1", _LEGACY),
    Client("openai for Node", ("node.mjs", "node_answers.mjs", "node_azure.mjs"), "node"),
)


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    for client in CLIENTS:
        client.make()
