"""OpenAI's first fine-tuning API, ``/fine-tunes``, through ``FineTune`` of openai 0.28.1."""

from __future__ import annotations

import csv
import io

import openai
from legacy_kit import begin, failure, is_absent, new_file, wait_for
from rows import pair_rows
from scenarios import Run, main, scenario


@scenario
def first_api_create(run: Run) -> None:
    file = new_file(pair_rows())
    made = openai.FineTune.create(
        training_file=file.id, model=run.model, n_epochs=2, batch_size=4, suffix="first"
    )
    assert (made.object, made.status) == ("fine-tune", "pending"), made
    assert made.id.startswith("ft-")
    assert [one.id for one in made.training_files] == [file.id]
    assert made.events[0].message.startswith("Created fine-tun")
    run["file"], run["fine_tune"] = file.id, made.id


@scenario
def first_api_stream_to_the_end(run: Run) -> None:
    messages = [event.message for event in openai.FineTune.stream_events(run["fine_tune"])]
    assert messages[-1] == "The job has successfully completed", messages
    ended = wait_for(run, lambda: openai.FineTune.retrieve(run["fine_tune"]))
    assert ended.status == "succeeded", ended
    assert ended.hyperparams.n_epochs == 2
    run["ended"], run["tuned"] = ended, ended.fine_tuned_model


@scenario
def first_api_events(run: Run) -> None:
    told = openai.FineTune.list_events(id=run["ended"].id).data
    assert told[-1].message == "The job has successfully completed"
    assert {event.object for event in told} == {"fine-tune-event"}


@scenario
def first_api_list(run: Run) -> None:
    found = openai.FineTune.list()
    assert found.object == "list"
    assert run["ended"].id in [one.id for one in found.data]


@scenario
def first_api_results(run: Run) -> None:
    content = openai.File.download(run["ended"].result_files[0].id)
    assert list(csv.DictReader(io.StringIO(content.decode())))


@scenario
def first_api_answers(run: Run) -> None:
    assert openai.Completion.create(model=run["tuned"], prompt="1 ->", max_tokens=4).choices


@scenario
async def first_api_asynchronous(run: Run) -> None:
    assert (await openai.FineTune.aretrieve(run["ended"].id)).id == run["ended"].id
    assert run["ended"].id in [one.id for one in (await openai.FineTune.alist()).data]
    events = [event async for event in await openai.FineTune.astream_events(run["ended"].id)]
    assert events[-1].message == "The job has successfully completed"


@scenario
def first_api_cancel(run: Run) -> None:
    made = openai.FineTune.create(training_file=run["file"], model=run.model, n_epochs=50)
    assert openai.FineTune.cancel(id=made.id).status == "cancelled"


@scenario
def first_api_seen_as_a_job(run: Run) -> None:
    job_id = run["ended"].id.replace("ft-", "ftjob-")
    assert openai.FineTuningJob.retrieve(job_id).fine_tuned_model == run["tuned"]


@scenario
def first_api_delete(run: Run) -> None:
    assert openai.Model.delete(run["tuned"]).deleted is True
    failure(openai.error.InvalidRequestError, lambda: openai.Model.retrieve(run["tuned"]))


if __name__ == "__main__":
    main(is_absent, begin)
