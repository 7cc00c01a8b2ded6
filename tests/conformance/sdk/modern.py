"""Drives a server through openai 1.x, 2.x and 3.x: jobs, models, errors; sync and async."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from typing import Any

import openai
from modern_kit import (
    CLIENT,
    USER,
    begin,
    failure,
    is_absent,
    listed,
    long_job,
    need,
    new_file,
    now,
    wait_for_job,
)
from rows import chat_rows, preference_rows
from scenarios import Run, Skip, main, scenario


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
async def idempotency_key(run: Run) -> None:
    jobs, headers = run[CLIENT].fine_tuning.jobs, {"Idempotency-Key": str(uuid.uuid4())}

    def create(**options: Any) -> Any:
        given = {"model": run.model, "training_file": run["file"], **options}
        return jobs.create(**given, extra_headers=headers)

    first, second = await now(create()), await now(create())
    await now(jobs.cancel(first.id))
    if first.id != second.id:
        raise Skip("not there: Idempotency-Key")
    error = await failure(openai.BadRequestError, lambda: create(suffix="other"))
    assert error.code == "idempotency_key_reused", error


@scenario
async def dpo_job(run: Run) -> None:
    jobs = run[CLIENT].fine_tuning.jobs
    file = await new_file(run, "pairs.jsonl", preference_rows())
    dpo = {"hyperparameters": {"beta": 0.1, "n_epochs": 1, "batch_size": 4}}
    method = {"type": "dpo", "dpo": dpo}
    job = await now(jobs.create(model=run.model, training_file=file.id, method=method))
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.1), job
    assert (await now(jobs.cancel(job.id))).status == "cancelled"


@scenario
async def permissions(run: Run) -> None:
    owner = need(run[CLIENT].fine_tuning, "checkpoints").permissions
    given = await listed(owner.create(run["checkpoint"], project_ids=["proj_sdk"]))
    assert [one.project_id for one in given] == ["proj_sdk"]
    options = {"fine_tuned_model_checkpoint": run["checkpoint"]}
    assert (await now(owner.delete(given[0].id, **options))).deleted is True


@scenario
async def delete(run: Run) -> None:
    assert (await now(run[CLIENT].models.delete(run["tuned"]))).deleted is True
    await failure(openai.NotFoundError, lambda: run[CLIENT].models.retrieve(run["tuned"]))
    assert (await now(run[CLIENT].files.delete(run["file"]))).deleted is True
    await failure(openai.NotFoundError, lambda: run[CLIENT].files.retrieve(run["file"]))


if __name__ == "__main__":
    main(is_absent, begin)
