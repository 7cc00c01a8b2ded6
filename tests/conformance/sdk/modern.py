"""Drives a server through openai 1.x, 2.x and 3.x, whose calls are alike; sync and async.

Each scenario is written once: ``now`` waits for what the async client returns and passes on what
the sync client returned, and ``each`` goes through either's pages and streams.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
from rows import batch_lines, chat_rows, preference_rows
from scenarios import TERMINAL, Run, Skip, main, scenario

USER = [{"role": "user", "content": "Say 3"}]
CLIENT = "client"


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


async def wait_for_job(run: Run, job_id: str, *states: str) -> Any:
    """Return a job once it is in one of ``states``, or has ended."""
    deadline = time.monotonic() + run.job_seconds
    while time.monotonic() < deadline:
        job = await now(run[CLIENT].fine_tuning.jobs.retrieve(job_id))
        if job.status in {*TERMINAL, *states}:
            return job
        await asyncio.sleep(0.2)
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


@scenario
async def upload(run: Run) -> None:
    file = await new_file(run, "train.jsonl", chat_rows())
    assert file.status == "processed", file
    assert file.bytes == len(chat_rows())
    run["file"] = file.id


@scenario
async def wait_for_processing(run: Run) -> None:
    file = await now(run[CLIENT].files.wait_for_processing(run["file"], poll_interval=0.01))
    assert file.id == run["file"]


@scenario
async def create_job(run: Run) -> None:
    job = await now(
        run[CLIENT].fine_tuning.jobs.create(
            model=run.model,
            training_file=run["file"],
            suffix="sdk",
            seed=1,
            metadata={"client": openai.__version__, "async": str(run.is_async)},
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}},
            },
        )
    )
    assert job.status == "validating_files", job
    assert job.fine_tuned_model is None
    run["job"] = job.id


@scenario
async def poll(run: Run) -> None:
    job = await wait_for_job(run, run["job"])
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model.startswith("ft:")
    assert job.hyperparameters.n_epochs == 2
    run["ended"] = job
    run["tuned"] = job.fine_tuned_model


@scenario
async def events(run: Run) -> None:
    told = await listed(run[CLIENT].fine_tuning.jobs.list_events(run["ended"].id, limit=3))
    assert told[-1].message == f"Created fine-tuning job: {run['ended'].id}", told[-1]
    assert told[0].message == "The job has successfully completed", told[0]
    assert {event.type for event in told} == {"message", "metrics"}


@scenario
async def checkpoints(run: Run) -> None:
    kept = await listed(run[CLIENT].fine_tuning.jobs.checkpoints.list(run["ended"].id, limit=1))
    assert [one.step_number for one in kept] == [6, 3], kept
    assert kept[0].metrics.train_loss > 0
    run["checkpoint"] = kept[-1].fine_tuned_model_checkpoint


@scenario
async def result_file(run: Run) -> None:
    content = await now(run[CLIENT].files.content(run["ended"].result_files[0]))
    lines = content.text.splitlines()
    assert lines[0].startswith("step,train_loss,train_accuracy,"), lines[0]
    assert len(lines) == 7


@scenario
async def chat_with_the_tuned_model(run: Run) -> None:
    for name in (run["tuned"], run["checkpoint"]):
        answer = await now(
            run[CLIENT].chat.completions.create(model=name, messages=USER, max_tokens=8)
        )
        assert answer.model == name
        assert answer.choices[0].message.role == "assistant"
        assert answer.usage.total_tokens > 0


@scenario
async def streaming(run: Run) -> None:
    options = {"model": run["tuned"], "messages": USER, "max_tokens": 8, "temperature": 0}
    whole = await now(run[CLIENT].chat.completions.create(**options))
    stream = await now(
        run[CLIENT].chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    chunks = await listed(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


@scenario
async def completions(run: Run) -> None:
    options = {"model": run["tuned"], "prompt": "abc", "max_tokens": 4, "temperature": 0}
    whole = await now(run[CLIENT].completions.create(**options))
    chunks = await listed(await now(run[CLIENT].completions.create(**options, stream=True)))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


@scenario
async def pagination(run: Run) -> None:
    made = [(await new_file(run, f"{n}.txt", b"x", "user_data")).id for n in range(5)]
    found = [file.id for file in await listed(run[CLIENT].files.list(purpose="user_data", limit=2))]
    assert found[:5] == made[::-1]
    assert len(found) == len(set(found))


@scenario
async def metadata_filter(run: Run) -> None:
    jobs = run[CLIENT].fine_tuning.jobs
    wanted = {"client": openai.__version__, "async": str(run.is_async)}
    if "metadata" not in inspect.signature(jobs.list).parameters:
        raise Skip(f"openai {openai.__version__} cannot filter jobs by metadata")
    assert [job.id for job in await listed(jobs.list(metadata=wanted))] == [run["job"]]
    assert await listed(jobs.list(metadata={"client": "none"})) == []


@scenario
async def errors(run: Run) -> None:
    client = run[CLIENT]
    bad = await failure(
        openai.BadRequestError,
        lambda: client.fine_tuning.jobs.create(model="gpt-none", training_file=run["file"]),
    )
    assert (bad.code, bad.param) == ("model_not_available", "model")
    assert bad.request_id.startswith("req_")
    gone = await failure(
        openai.NotFoundError,
        lambda: client.chat.completions.create(model="gpt-none", messages=USER),
    )
    assert (gone.code, gone.type) == ("model_not_found", "invalid_request_error")
    await failure(openai.NotFoundError, lambda: client.files.retrieve("file-none"))
    await failure(openai.NotFoundError, lambda: client.fine_tuning.jobs.retrieve("ftjob-none"))
    await failure(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=run.model, messages=USER, temperature=3),
    )


async def failure(kind: type[Exception], call: Any) -> Any:
    """Return the error of a call that must raise ``kind``."""
    try:
        await now(call())
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


@scenario
async def models(run: Run) -> None:
    names = {one.id for one in await listed(run[CLIENT].models.list())}
    assert {run.model, run["tuned"]} <= names
    assert (await now(run[CLIENT].models.retrieve(run["tuned"]))).id == run["tuned"]


@scenario
async def model_with_a_slash(run: Run) -> None:
    names = [one.id for one in await listed(run[CLIENT].models.list()) if "/" in one.id]
    if not names:
        raise Skip("no model here has a slash in its name")
    assert (await now(run[CLIENT].models.retrieve(names[0]))).id == names[0]
    error = await failure(
        openai.NotFoundError, lambda: run[CLIENT].models.retrieve("no/such-model")
    )
    assert "no/such-model" in error.message, error.message


@scenario
async def raw_response_headers(run: Run) -> None:
    raw = await now(run[CLIENT].files.with_raw_response.retrieve(run["file"]))
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"]
    assert (await now(raw.parse())).id == run["file"]


@scenario
async def request_id(run: Run) -> None:
    file = await now(run[CLIENT].files.retrieve(run["file"]))
    assert file._request_id.startswith("req_")


@scenario
async def cancel(run: Run) -> None:
    job = await long_job(run)
    cancelled = await now(run[CLIENT].fine_tuning.jobs.cancel(job.id))
    assert cancelled.status == "cancelled"
    await failure(openai.BadRequestError, lambda: run[CLIENT].fine_tuning.jobs.cancel(job.id))


@scenario
async def pause_and_resume(run: Run) -> None:
    jobs = run[CLIENT].fine_tuning.jobs
    pause, resume = need(jobs, "pause"), need(jobs, "resume")
    job = await long_job(run)
    await wait_for_job(run, job.id, "running")
    await first_step(run, job.id)
    assert (await now(pause(job.id))).status in {"pausing", "paused"}
    assert (await wait_for_job(run, job.id, "paused")).status == "paused"
    assert (await now(resume(job.id))).status == "queued"
    assert (await now(jobs.cancel(job.id))).status == "cancelled"


async def first_step(run: Run, job_id: str) -> None:
    """Wait until a job has told its first step."""
    deadline = time.monotonic() + run.job_seconds
    while time.monotonic() < deadline:
        page = await now(run[CLIENT].fine_tuning.jobs.list_events(job_id, limit=1))
        if page.data[0].type == "metrics":
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"{job_id} made no step")


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
async def dpo_job(run: Run) -> None:
    file = await new_file(run, "pairs.jsonl", preference_rows())
    job = await now(
        run[CLIENT].fine_tuning.jobs.create(
            model=run.model,
            training_file=file.id,
            method={
                "type": "dpo",
                "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 1, "batch_size": 4}},
            },
        )
    )
    ended = await wait_for_job(run, job.id)
    assert ended.status == "succeeded", ended.error
    assert ended.method.dpo.hyperparameters.beta == 0.1


@scenario
async def permissions(run: Run) -> None:
    owner = need(run[CLIENT].fine_tuning, "checkpoints").permissions
    given = await listed(owner.create(run["checkpoint"], project_ids=["proj_sdk"]))
    assert [one.project_id for one in given] == ["proj_sdk"]
    options = {"fine_tuned_model_checkpoint": run["checkpoint"]}
    assert (await now(owner.delete(given[0].id, **options))).deleted is True


@scenario
async def stored_completions(run: Run) -> None:
    chat = run[CLIENT].chat.completions
    need(chat, "messages")
    made = await now(
        chat.create(
            model=run.model,
            messages=USER,
            max_tokens=8,
            store=True,
            metadata={"client": f"{openai.__version__} {run.is_async}"},
        )
    )
    wanted = {"client": f"{openai.__version__} {run.is_async}"}
    assert made.id in [one.id for one in await listed(chat.list(metadata=wanted))]
    assert (await now(chat.retrieve(made.id))).id == made.id
    changed = await now(chat.update(made.id, metadata={"client": "changed"}))
    assert changed.metadata == {"client": "changed"}
    assert [m.content for m in await listed(chat.messages.list(made.id))] == ["Say 3"]
    assert (await now(chat.delete(made.id))).deleted is True


@scenario
async def batch(run: Run) -> None:
    file = await new_file(run, "batch.jsonl", batch_lines(run.model), "batch")
    made = await now(
        run[CLIENT].batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    )
    deadline = time.monotonic() + run.job_seconds
    while made.status not in {"completed", "failed", "cancelled", "expired"}:
        assert time.monotonic() < deadline, made
        await asyncio.sleep(0.2)
        made = await now(run[CLIENT].batches.retrieve(made.id))
    assert made.status == "completed", made
    content = await now(run[CLIENT].files.content(made.output_file_id))
    lines = [json.loads(line) for line in content.text.splitlines()]
    assert len(lines) == 3
    assert all(line["response"]["status_code"] == 200 for line in lines)


@scenario
async def azure(run: Run) -> None:
    kind = openai.AsyncAzureOpenAI if run.is_async else openai.AzureOpenAI
    client = kind(azure_endpoint=run.origin, api_key=run.api_key, api_version="2024-10-21")
    assert run["file"] in [file.id for file in await listed(client.files.list())]
    answer = await now(client.chat.completions.create(model=run.model, messages=USER, max_tokens=4))
    assert answer.choices


@scenario
async def delete(run: Run) -> None:
    assert (await now(run[CLIENT].models.delete(run["tuned"]))).deleted is True
    await failure(openai.NotFoundError, lambda: run[CLIENT].models.retrieve(run["tuned"]))
    assert (await now(run[CLIENT].files.delete(run["file"]))).deleted is True
    await failure(openai.NotFoundError, lambda: run[CLIENT].files.retrieve(run["file"]))


if __name__ == "__main__":
    main(is_absent, begin)
