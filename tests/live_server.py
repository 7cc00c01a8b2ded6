"""A real `sintonia serve` on a home of its own, for tests of every folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from openai import OpenAI

START_SECONDS = 60


@dataclass
class LiveServer:
    """A server as a user starts it, in its own process group."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> LiveServer:
        log = (self.home / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sintonia.cli", "serve", "--port", "0"],
            env={**os.environ, **self.environment, "SINTONIA_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.record().get("pid") == self.process.pid and self._is_ready():
                return
            time.sleep(0.1)
        raise AssertionError((self.home / "serve.log").read_text())

    def record(self) -> dict:
        path = self.home / "server.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.record()['url']}/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.record()['url']}/v1", api_key="none", max_retries=6)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        (self.home / "server.json").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def child_pid(self, module: str) -> int | None:
        """Return the process of this home that runs ``python -m MODULE``."""
        for process in psutil.process_iter():
            try:
                command, environment = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            if module in command and environment.get("SINTONIA_HOME") == str(self.home):
                return process.pid
        return None


def home_with_tiny(tiny_home: Path, folder: Path) -> Path:
    """Return a new home that has the random base ``tiny``."""
    shutil.copytree(tiny_home / "models", folder / "models")
    return folder
