"""What end-to-end tests ask of a real server: data, jobs, their results."""

from __future__ import annotations

import csv
import io
import json
import time

from openai import OpenAI

from live_server import LiveServer, home_with_tiny

__all__ = [
    "LiveServer",
    "chat_rows",
    "create_job",
    "home_with_tiny",
    "result_rows",
    "wait_for_job",
]


def chat_rows(count: int, start: int = 0) -> bytes:
    """Return a training file of unequal rows that share a prompt."""
    rows = []
    for number in range(start, start + count):
        answer = f"{number * 7 % 10}!" * (1 + number % 3)
        messages = [
            {"role": "system", "content": "Answer."},
            {"role": "user", "content": f"Say {'very ' * (number % 5)}{number}"},
            {"role": "assistant", "content": answer},
        ]
        rows.append(json.dumps({"messages": messages}))
    return "\n".join(rows).encode()


def create_job(client: OpenAI, **options):
    """Upload data and create a job of 3 epochs of 4 steps on ``tiny``."""
    training = client.files.create(file=("train.jsonl", chat_rows(16)), purpose="fine-tune")
    validation = client.files.create(file=("valid.jsonl", chat_rows(10, 90)), purpose="fine-tune")
    hyperparameters = {"n_epochs": 3, "batch_size": 4}
    given = {"model": "tiny", "suffix": "e2e", "seed": 11, **options}
    return client.fine_tuning.jobs.create(
        training_file=training.id,
        validation_file=validation.id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        **given,
    )


def wait_for_job(client: OpenAI, job_id: str, timeout_seconds: float = 240):
    """Poll until the job has ended."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in {"succeeded", "failed", "cancelled"}:
            return job
        time.sleep(0.2)
    raise AssertionError(f"{job_id} did not end: {job}")


def result_rows(client: OpenAI, job) -> list[dict[str, str]]:
    """Return the result file's rows."""
    text = client.files.content(job.result_files[0]).text
    return list(csv.DictReader(io.StringIO(text)))
