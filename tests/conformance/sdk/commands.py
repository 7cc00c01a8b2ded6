"""Runs the ``openai`` command of the environment that a script runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scenarios import Run

SECONDS = 300


class CommandFailed(Exception):
    """A command that did not end with 0; the message is what it printed."""


def openai_command(run: Run, *arguments: str) -> str:
    """Return what ``openai api ...`` printed. Raises ``CommandFailed``."""
    command = Path(sys.executable).with_name("openai")
    environment = {**os.environ, "OPENAI_API_KEY": run.api_key, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [command, "-b", run.base_url, "-k", run.api_key, "api", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise CommandFailed(f"{arguments[0]}: {done.stderr.strip()[-400:]}")
    return done.stdout


def is_absent(error: Exception) -> bool:
    """Tell whether a command failed since the server has no such endpoint."""
    return "Unknown request URL" in str(error) or "Invalid URL" in str(error)
