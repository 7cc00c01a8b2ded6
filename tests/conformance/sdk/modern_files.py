"""Files through openai 1.x, 2.x and 3.x: listed, expiring, in parts; and batches."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
from modern_kit import CLIENT, POLL_SECONDS, begin, failure, is_absent, listed, new_file, now
from rows import batch_lines, chat_rows
from scenarios import Run, main, scenario


@scenario
async def pagination(run: Run) -> None:
    made = [(await new_file(run, f"{n}.txt", b"x", "user_data")).id for n in range(5)]
    found = [file.id for file in await listed(run[CLIENT].files.list(purpose="user_data", limit=2))]
    assert found[:5] == made[::-1]
    assert len(found) == len(set(found))


@scenario
async def upload_in_chunks(run: Run) -> None:
    content = chat_rows(40)
    whole = await now(
        run[CLIENT].uploads.upload_file_chunked(
            file=content,
            filename="chunks.jsonl",
            bytes=len(content),
            mime_type="text/jsonl",
            purpose="fine-tune",
            part_size=1000,
        )
    )
    assert whole.status == "completed", whole
    assert (await now(run[CLIENT].files.content(whole.file.id))).read() == content


@scenario
async def upload_in_parts(run: Run) -> None:
    content, uploads = chat_rows(), run[CLIENT].uploads
    begun = await begun_upload(run, len(content))
    assert (begun.status, begun.expires_at) == ("pending", begun.created_at + 3600), begun
    pieces = [content[100:], content[:100]]
    parts = [await now(uploads.parts.create(begun.id, data=piece)) for piece in pieces]
    ids = [part.id for part in reversed(parts)]
    whole = await now(uploads.complete(begun.id, part_ids=ids))
    assert (whole.status, whole.file.bytes) == ("completed", len(content)), whole
    assert (await now(run[CLIENT].files.content(whole.file.id))).read() == content


@scenario
async def cancelled_upload(run: Run) -> None:
    uploads = run[CLIENT].uploads
    begun = await begun_upload(run, 3)
    assert (await now(uploads.cancel(begun.id))).status == "cancelled"
    await failure(openai.BadRequestError, lambda: uploads.parts.create(begun.id, data=b"abc"))
    await failure(openai.BadRequestError, lambda: uploads.complete(begun.id, part_ids=["part_1"]))


async def begun_upload(run: Run, size: int) -> Any:
    """Begin an upload."""
    options = {"filename": "parts.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    return await now(run[CLIENT].uploads.create(bytes=size, **options))


@scenario
async def expiry(run: Run) -> None:
    files = run[CLIENT].files
    after = {"anchor": "created_at", "seconds": 3600}
    options = {"file": ("soon.txt", b"x"), "purpose": "user_data"}
    file = await now(files.create(**options, expires_after=after))
    assert file.expires_at == file.created_at + 3600
    too_soon = {"anchor": "created_at", "seconds": 3599}
    error = await failure(
        openai.BadRequestError, lambda: files.create(**options, expires_after=too_soon)
    )
    assert "3600" in error.message, error


@scenario
async def batch(run: Run) -> None:
    made = await new_batch(run)
    deadline = time.monotonic() + run.job_seconds
    while made.status not in {"completed", "failed", "cancelled", "expired"}:
        assert time.monotonic() < deadline, made
        await asyncio.sleep(POLL_SECONDS)
        made = await now(run[CLIENT].batches.retrieve(made.id))
    assert made.status == "completed", made
    content = await now(run[CLIENT].files.content(made.output_file_id))
    lines = [json.loads(line) for line in content.text.splitlines()]
    assert len(lines) == 3
    assert all(line["response"]["status_code"] == 200 for line in lines)


@scenario
async def batches_listed_and_cancelled(run: Run) -> None:
    batches = run[CLIENT].batches
    made = await new_batch(run, 2000)
    assert (await now(batches.cancel(made.id))).status in {"cancelling", "cancelled"}
    assert made.id in [one.id for one in await listed(batches.list(limit=1))]


async def new_batch(run: Run, count: int = 3) -> Any:
    """Begin a batch of chats."""
    file = await new_file(run, "batch.jsonl", batch_lines(run.model, count), "batch")
    return await now(
        run[CLIENT].batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"client": openai.__version__},
        )
    )


if __name__ == "__main__":
    main(is_absent, begin)
