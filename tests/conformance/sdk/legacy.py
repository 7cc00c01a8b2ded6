"""Drives a server through openai 0.28.1: files, jobs, models, answers of what was tuned."""

from __future__ import annotations

import csv
import io

import openai
from legacy_kit import USER, begin, failure, is_absent, new_file, wait_for
from rows import chat_rows
from scenarios import Run, Skip, main, scenario


@scenario
def upload(run: Run) -> None:
    file = new_file()
    assert file.status == "processed", file
    assert openai.File.retrieve(file.id).bytes == len(chat_rows())
    run["file"] = file.id


@scenario
def create_job(run: Run) -> None:
    job = openai.FineTuningJob.create(
        model=run.model,
        training_file=run["file"],
        suffix="legacy",
        hyperparameters={"n_epochs": 2, "batch_size": 4},
    )
    assert job.status == "validating_files", job
    run["job"] = job.id


@scenario
def poll(run: Run) -> None:
    job = wait_for(run, lambda: openai.FineTuningJob.retrieve(run["job"]))
    assert job.status == "succeeded", job.error
    run["ended"], run["tuned"] = job, job.fine_tuned_model


@scenario
def events(run: Run) -> None:
    told = openai.FineTuningJob.list_events(id=run["ended"].id, limit=100).data
    told.reverse()
    assert told[0].message == f"Created fine-tuning job: {run['ended'].id}"
    assert told[-1].message == "The job has successfully completed"


@scenario
def result_file(run: Run) -> None:
    content = openai.File.download(run["ended"].result_files[0])
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]


@scenario
def chat_with_the_tuned_model(run: Run) -> None:
    answer = openai.ChatCompletion.create(model=run["tuned"], messages=USER, max_tokens=8)
    assert answer.model == run["tuned"]
    assert answer["choices"][0]["message"]["role"] == "assistant"


@scenario
def streaming(run: Run) -> None:
    options = {"model": run["tuned"], "messages": USER, "max_tokens": 8, "temperature": 0}
    whole = openai.ChatCompletion.create(**options)
    chunks = list(openai.ChatCompletion.create(**options, stream=True))
    text = "".join(chunk.choices[0].delta.get("content", "") for chunk in chunks)
    assert text == whole.choices[0].message.content


@scenario
def completions(run: Run) -> None:
    answer = openai.Completion.create(model=run["tuned"], prompt="abc", max_tokens=4)
    assert isinstance(answer.choices[0].text, str)


@scenario
async def asynchronous(run: Run) -> None:
    assert (await openai.FineTuningJob.aretrieve(run["job"])).id == run["job"]
    options = {"model": run.model, "messages": USER, "max_tokens": 8, "temperature": 0}
    whole = await openai.ChatCompletion.acreate(**options)
    stream = await openai.ChatCompletion.acreate(**options, stream=True)
    text = "".join([chunk.choices[0].delta.get("content", "") async for chunk in stream])
    assert text == whole.choices[0].message.content


@scenario
def pagination(run: Run) -> None:
    made = [
        openai.FineTuningJob.create(model=run.model, training_file=run["file"]).id for _ in range(3)
    ]
    for job_id in made:
        openai.FineTuningJob.cancel(job_id)
    found = [job.id for job in openai.FineTuningJob.auto_paging_iter(limit=2)]
    assert found[:3] == made[::-1]
    assert len(found) == len(set(found))


@scenario
def errors(run: Run) -> None:
    bad = failure(
        openai.error.InvalidRequestError,
        lambda: openai.FineTuningJob.create(model="gpt-none", training_file=run["file"]),
    )
    assert (bad.code, bad.param, bad.http_status) == ("model_not_available", "model", 400)
    gone = failure(
        openai.error.InvalidRequestError,
        lambda: openai.ChatCompletion.create(model="gpt-none", messages=USER),
    )
    assert (gone.code, gone.http_status) == ("model_not_found", 404)
    missing = failure(
        openai.error.InvalidRequestError, lambda: openai.File.retrieve("./train.jsonl")
    )
    assert missing.http_status == 404, "its command line takes this for: a path, upload it"


@scenario
def models(run: Run) -> None:
    names = {one.id for one in openai.Model.list().data}
    assert {run.model, run["tuned"]} <= names
    assert openai.Model.retrieve(run["tuned"]).id == run["tuned"]


@scenario
def model_with_a_slash(run: Run) -> None:
    names = [one.id for one in openai.Model.list().data if "/" in one.id]
    if not names:
        raise Skip("no model here has a slash in its name")
    assert openai.Model.retrieve(names[0]).id == names[0]


@scenario
def response_headers(run: Run) -> None:
    answer = openai.ChatCompletion.create(model=run.model, messages=USER, max_tokens=4)
    assert answer.response_ms >= 0
    assert answer.organization


@scenario
def cancel(run: Run) -> None:
    file = new_file(chat_rows(200))
    job = openai.FineTuningJob.create(
        model=run.model, training_file=file.id, hyperparameters={"n_epochs": 50}
    )
    assert openai.FineTuningJob.cancel(job.id).status == "cancelled"


@scenario
def delete(run: Run) -> None:
    assert openai.Model.delete(run["tuned"]).deleted is True
    error = failure(openai.error.InvalidRequestError, lambda: openai.Model.retrieve(run["tuned"]))
    assert error.code == "model_not_found"
    assert openai.File.delete(run["file"]).deleted is True


if __name__ == "__main__":
    main(is_absent, begin)
