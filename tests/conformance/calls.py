"""What several checks do on their way: upload a file, wait for a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from conformance.wire import Wire

TERMINAL = {"succeeded", "failed", "cancelled"}
_POLL_SECONDS = 0.2


def upload(wire: Wire, name: str, content: bytes, purpose: str = "fine-tune") -> dict[str, Any]:
    """Upload a file and return its object."""
    files = {"file": (name, content, "application/octet-stream")}
    return wire.post("/files", data={"purpose": purpose}, files=files).json()


def batch_body(file_id: str, **options: Any) -> dict[str, Any]:
    """Return the body that asks for a batch of chats."""
    return {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **options,
    }


def wait_until(
    wire: Wire, path: str, is_reached: Callable[[dict[str, Any]], bool], seconds: float
) -> dict[str, Any]:
    """Return the object at ``path`` once it is as it should be."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = wire.get(path).json()
        if is_reached(found):
            return found
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"{path} did not get there in {seconds:.0f} s: {found}")


def wait_for_job(wire: Wire, job_id: str, seconds: float) -> dict[str, Any]:
    """Return a job once it has ended."""
    return wait_until(
        wire, f"/fine_tuning/jobs/{job_id}", lambda job: job["status"] in TERMINAL, seconds
    )


def make_long_job(wire: Wire, model: str, file_id: str) -> dict[str, Any]:
    """Create a job that takes longer than the checks."""
    hyperparameters = {"n_epochs": 50, "batch_size": 1}
    body = {"model": model, "training_file": file_id, "hyperparameters": hyperparameters}
    return wire.post("/fine_tuning/jobs", json=body).json()


def end(wire: Wire, job: dict[str, Any]) -> None:
    """Cancel a job that has not ended, so that the next one has its turn."""
    path = f"/fine_tuning/jobs/{job['id']}"
    if wire.get(path).json()["status"] not in TERMINAL:
        wire.post(f"{path}/cancel")
