"""A home with a base model that has no sense, and workers that launch the fake trainer."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.domain.files import FilePurpose
from sintonia.domain.jobs import JobDraft
from sintonia.domain.methods import Hyperparameters, Method
from sintonia.jobs.context import Pace, WorkerContext
from sintonia.jobs.executors.local import LocalExecutor
from sintonia.jobs.worker import work
from sintonia.store import Store

FAKE_TRAINER = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))
QUICK = Pace(
    poll_seconds=0.02,
    hang_seconds=0.6,
    grace_seconds=0.5,
    retry_seconds=0.02,
    full_disk_seconds=0.02,
    sweep_seconds=60,
)


def add_base(home: Path, tokenizer_json: str) -> None:
    """Add a base model called ``tiny``: all files are real, the weights are noughts."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = home / "incoming"
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "max_position_embeddings": 512, "eos_token_id": 257}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    names = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight")
    weights = {name: np.zeros((2, 2), dtype=np.float32) for name in names}
    save_file(weights, folder / "model.safetensors")
    Library(home, catalog.load()).add("tiny", folder)


def chat_rows(number: int, start: int = 0, answer: str = "yes") -> bytes:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {n}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for n in range(start, start + number)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def behave(home: Path, steps: int = 6, step_seconds: float = 0.01, **attempts) -> None:
    """Say what the fake trainer does; ``a1={...}`` is for attempt 1, ``every={...}`` for all."""
    names = {name: "*" if name == "every" else name.removeprefix("a") for name in attempts}
    value = {
        "steps": steps,
        "step_seconds": step_seconds,
        "attempts": {names[name]: how for name, how in attempts.items()},
    }
    (home / "behaviour.json").write_text(json.dumps(value))


def upload(store: Store, content: bytes) -> str:
    file = store.files.create(
        filename="train.jsonl", purpose=FilePurpose.FINE_TUNE, content=[content]
    )
    return file.id


def submit(store: Store, training: bytes | None = None, **draft):
    """Upload rows and make a job."""
    file_id = upload(store, chat_rows(12) if training is None else training)
    method = Method(hyperparameters=Hyperparameters(n_epochs=3, batch_size=6))
    return store.jobs.create(
        replace(JobDraft("tiny", "tiny", file_id, method=method, seed=1), **draft)
    )


def open_context(given: settings.Settings, store: Store, pace: Pace = QUICK) -> WorkerContext:
    library = Library(given.home, catalog.load(given.aliases))
    return WorkerContext(
        given, store, library, LocalExecutor(FAKE_TRAINER), threading.Event(), pace
    )


@contextmanager
def working(context: WorkerContext):
    """Run a worker in this process."""
    thread = threading.Thread(target=work, args=(context,))
    thread.start()
    try:
        yield
    finally:
        context.stop.set()
        thread.join(20)
        assert not thread.is_alive()


def texts(store: Store, job_id: str) -> list[str]:
    return [event.message for event in store.jobs.events(job_id, limit=1000).items][::-1]


def wait_until(condition, timeout_seconds: float = 90.0, message: str = "") -> None:
    """Poll ``condition`` until it is true; fail after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, message or f"still false: {condition}"
        time.sleep(0.02)
