"""What the scripts for openai 1.x, 2.x and 3.x share, whose calls are alike; sync and async.

Each scenario is written once: ``now`` waits for what the async client returns and passes on what
the sync client returned, and ``each`` goes through either's pages and streams.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
from rows import chat_rows
from scenarios import TERMINAL, Run, Skip

USER = [{"role": "user", "content": "Say 3"}]
CLIENT = "client"
POLL_SECONDS = 0.2


def begin(run: Run) -> None:
    """Make the client."""
    kind = openai.AsyncOpenAI if run.is_async else openai.OpenAI
    run[CLIENT] = kind(base_url=run.base_url, api_key=run.api_key, max_retries=2)


def is_absent(error: Exception) -> bool:
    """Tell whether the server has no such endpoint."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in (404, 405):
        return False
    return error.code in {"unknown_url", "method_not_allowed"} or "Invalid URL" in error.message


async def now(value: Any) -> Any:
    """Return a value of the sync client, or wait for one of the async client."""
    return await value if inspect.isawaitable(value) else value


async def each(items: Any) -> AsyncIterator[Any]:
    """Yield the items of a list, page after page, or the chunks of a stream."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
        return
    for item in items:
        yield item


async def listed(items: Any) -> list[Any]:
    """Return all items of a list."""
    return [item async for item in each(items)]


async def failure(kind: type[Exception], call: Any) -> Any:
    """Return the error of a call that must raise ``kind``."""
    try:
        await now(call())
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


async def wait_for_job(run: Run, job_id: str, *states: str) -> Any:
    """Return a job once it is in one of ``states``, or has ended."""
    deadline = time.monotonic() + run.job_seconds
    while time.monotonic() < deadline:
        job = await now(run[CLIENT].fine_tuning.jobs.retrieve(job_id))
        if job.status in {*TERMINAL, *states}:
            return job
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{job_id} did not end: {job.status}")


async def new_file(run: Run, name: str, content: bytes, purpose: str = "fine-tune") -> Any:
    """Upload a file."""
    return await now(run[CLIENT].files.create(file=(name, content), purpose=purpose))


async def long_job(run: Run) -> Any:
    """Create a job that takes longer than a scenario."""
    file = await new_file(run, "long.jsonl", chat_rows(200))
    return await now(
        run[CLIENT].fine_tuning.jobs.create(
            model=run.model,
            training_file=file.id,
            hyperparameters={"n_epochs": 50, "batch_size": 1},
        )
    )


def need(owner: Any, name: str) -> Any:
    """Return a part of the client. Raises ``Skip`` where this version has none."""
    if not hasattr(owner, name):
        raise Skip(f"openai {openai.__version__} has no {name}")
    return getattr(owner, name)
