"""Azure's forms through openai 0.28.1: ``api_type="azure"``, engines, deployments."""

from __future__ import annotations

from typing import Any

import openai
from legacy_kit import USER, failure, is_absent, new_file
from rows import chat_rows
from scenarios import Run, main, scenario


def begin(run: Run) -> None:
    """Tell the library where the server is, and that it is Azure's."""
    openai.api_type = "azure"
    openai.api_base = run.origin
    openai.api_version = "2023-07-01-preview"
    openai.api_key = run.api_key


def say(name: str, **options: Any) -> Any:
    """Return an answer of a deployment to a chat."""
    return openai.ChatCompletion.create(
        deployment_id=name, messages=USER, max_tokens=4, temperature=0, **options
    )


@scenario
def azure_chat(run: Run) -> None:
    whole = say(run.model)
    text = "".join(c.choices[0].delta.get("content", "") for c in say(run.model, stream=True))
    assert text == whole.choices[0].message.content


@scenario
def azure_completions(run: Run) -> None:
    for name in ("engine", "deployment_id"):
        options = {name: run.model}
        assert openai.Completion.create(prompt="abc", max_tokens=2, **options).choices


@scenario
def azure_files_have_the_statuses_of_their_time(run: Run) -> None:
    file = new_file()
    assert file.status == "succeeded", "scripts of before 2024 wait for this word"
    assert file.id in [one.id for one in openai.File.list().data]
    assert openai.File.download(file.id) == chat_rows()
    run["file"] = file.id


@scenario
def azure_jobs(run: Run) -> None:
    job = openai.FineTuningJob.create(model=run.model, training_file=run["file"])
    assert openai.FineTuningJob.retrieve(job.id).id == job.id
    assert openai.FineTuningJob.cancel(job.id).status == "cancelled"
    assert job.id in [one.id for one in openai.FineTuningJob.list(limit=1).data]


@scenario
def azure_first_api(run: Run) -> None:
    made = openai.FineTune.create(training_file=run["file"], model=run.model)
    assert openai.FineTune.cancel(id=made.id).status == "cancelled"
    assert made.id in [one.id for one in openai.FineTune.list().data]


@scenario
def azure_deployments(run: Run) -> None:
    made = openai.Deployment.create(
        model=run.model, scale_settings={"scale_type": "standard", "capacity": None}
    )
    assert made.status == "succeeded", made
    assert openai.Deployment.retrieve(made.id).model == run.model
    assert made.id in [one.id for one in openai.Deployment.list().data]
    assert say(made.id).choices
    openai.Deployment.delete(made.id)
    gone = failure(openai.error.InvalidRequestError, lambda: say(made.id))
    assert gone.code == "DeploymentNotFound", gone


@scenario
async def azure_asynchronous(run: Run) -> None:
    answer = await openai.ChatCompletion.acreate(engine=run.model, messages=USER, max_tokens=4)
    assert answer.choices


@scenario
def azure_models(run: Run) -> None:
    assert run.model in [one.id for one in openai.Model.list().data]


@scenario
def azure_delete(run: Run) -> None:
    openai.File.delete(run["file"])
    gone = failure(openai.error.InvalidRequestError, lambda: openai.File.retrieve(run["file"]))
    assert gone.code == "resourceNotFound", gone


if __name__ == "__main__":
    main(is_absent, begin)
