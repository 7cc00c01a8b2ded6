"""What end-to-end tests of batches share: the input, and what must be true at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path

from openai import OpenAI

CHAT = "/v1/chat/completions"
ENDED = {"failed", "completed", "expired", "cancelled"}


def is_bad(number: int) -> bool:
    """Tell whether a request is longer than the model's context."""
    return number % 10 == 7


def request(number: int) -> dict:
    text = "x" * 600 if is_bad(number) else f"{'a long story ' * 15} number {number}"
    messages = [{"role": "user", "content": text}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 200}
    return {"custom_id": f"r-{number}", "method": "POST", "url": CHAT, "body": body}


def create_batch(client: OpenAI, count: int, **options):
    """Upload ``count`` requests, a tenth of them bad, and make a batch of them."""
    content = "\n".join(json.dumps(request(number)) for number in range(count)).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", **options
    )


def wait_for_batch(client: OpenAI, batch_id: str, timeout_seconds: float = 120):
    """Poll until the batch has ended."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ENDED:
            return batch
        time.sleep(0.1)
    raise AssertionError(f"{batch_id} did not end: {batch}")


def lines(client: OpenAI, file_id: str | None) -> dict[str, dict]:
    """Return a file's lines by ``custom_id``, each of which must be there once."""
    if file_id is None:
        return {}
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line for line in found}
    assert len(by_id) == len(found)
    return by_id


def assert_each_answered_once(client: OpenAI, batch, count: int, home: Path) -> None:
    """Check that a batch completed as if nothing had happened, and left nothing behind."""
    assert batch.status == "completed", batch.errors
    output, errors = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
    assert set(output) == {f"r-{n}" for n in range(count) if not is_bad(n)}
    assert set(errors) == {f"r-{n}" for n in range(count) if is_bad(n)}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (count, len(output), len(errors))
    for number in range(count):
        check_line(number, (errors if is_bad(number) else output)[f"r-{number}"])
    usages = [line["response"]["body"]["usage"] for line in output.values()]
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in usages)
    owned = {file.id for file in client.files.list(purpose="batch_output")}
    assert {batch.output_file_id, batch.error_file_id} == owned
    deadline = time.monotonic() + 10
    while left := [p for p in (home / "batches").iterdir() if p.is_dir()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def check_line(number: int, line: dict) -> None:
    response = line["response"]
    if is_bad(number):
        assert response["status_code"] == 400
        assert response["body"]["error"]["code"] == "context_length_exceeded"
        return
    # The echo says the end of the prompt again.
    choice = response["body"]["choices"][0]
    assert f"number {number}" in choice["message"]["content"]
