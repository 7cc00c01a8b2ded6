"""Several processes: all of them as torchrun starts them, or each by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from sintonia.jobs.executors.local import PATIENT_THREADS
from sintonia.runs.layout import RunFolder

MODULE = "sintonia.training.run"
TIMEOUT_SECONDS = 240
_ENVIRONMENT = {**PATIENT_THREADS, **os.environ}


def launch(run: RunFolder, attempt: int, size: int = 2) -> subprocess.Popen[bytes]:
    """Start an attempt as the docs say."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size))
    command = [sys.executable, *launcher, "-m", MODULE, str(run.path), "--attempt", str(attempt)]
    run.attempt(attempt).path.mkdir(parents=True, exist_ok=True)
    with run.attempt(attempt).output.open("wb") as output:
        return subprocess.Popen(command, env=_ENVIRONMENT, stdout=output, stderr=output)


def start_ranks(
    run: RunFolder, attempt: int, failpoints: Mapping[int, str]
) -> list[subprocess.Popen[bytes]]:
    """Start the two processes of an attempt without a launcher, each with its own failpoint."""
    command = ("-m", MODULE, str(run.path), "--attempt", str(attempt))
    run.attempt(attempt).path.mkdir(parents=True, exist_ok=True)
    return start_two(command, run.attempt(attempt).path, failpoints)


def start_two(
    command: tuple[str, ...], folder: Path, failpoints: Mapping[int, str]
) -> list[subprocess.Popen[bytes]]:
    """Start python twice, as processes that find each other; what they print is in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in range(2):
        own = {"RANK": str(rank), "SINTONIA_FAILPOINT": failpoints.get(rank, "")}
        environment = {**_ENVIRONMENT, **world, **own}
        with (folder / f"output-{rank}.log").open("wb") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, *command], env=environment, stdout=output, stderr=output
                )
            )
    return started


def ends_of(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all; return their exit statuses by rank."""
    return [process.wait(timeout=TIMEOUT_SECONDS) for process in processes]


def said(folder: Path) -> str:
    """What processes printed; for a test that failed."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("output*.log")))
