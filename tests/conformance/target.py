"""The server that a run speaks to: one that was named, or one of ours in a fresh home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SLASHED = "acme/tiny"
"""A name with a slash that our own server knows a base model by."""
_ALIASES = f"""
[aliases]
"gpt-4o-mini*" = "tiny"
"gpt-3.5-turbo*" = "tiny"
"babbage-002" = "tiny"
"davinci-002" = "tiny"
"{SLASHED}" = "tiny"
"""
_ENVIRONMENT = {"SINTONIA_ENGINE": "echo", "SINTONIA_THREADS": "1"}


@dataclass(frozen=True)
class Target:
    """Where a server is, and how to speak to it."""

    base_url: str
    api_key: str
    model: str
    """A base model that answers chats and can be fine-tuned."""
    is_ours: bool
    """Whether the run started the server, so that its list of differences must be complete."""


@contextmanager
def own_server(tiny_home: Path, folder: Path) -> Iterator[Target]:
    """Yield a server of ours that has a random base model and the echo engine."""
    from live_server import LiveServer, home_with_tiny

    home = home_with_tiny(tiny_home, folder)
    (home / "sintonia.toml").write_text(_ALIASES, encoding="utf-8")
    server = LiveServer(home, _ENVIRONMENT).start()
    try:
        yield Target(f"{server.record()['url']}/v1", "any", "gpt-4o-mini", is_ours=True)
    finally:
        server.stop()
