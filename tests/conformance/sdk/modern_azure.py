"""Azure's forms through ``AzureOpenAI`` of openai 1.x, 2.x, 3.x, and ``OpenAI`` on its v1 URL."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import openai
from modern_kit import USER, failure, is_absent, listed, now
from rows import chat_rows
from scenarios import TERMINAL, Run, Skip, main, scenario

VERSION = "2024-10-21"
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"


def begin(run: Run) -> None:
    """Ask whether the server speaks Azure's forms at all."""
    found = httpx.get(f"{run.origin}/openai/models", headers={"api-key": run.api_key})
    run["is_there"] = found.status_code == 200


def azure(run: Run, **options: Any) -> Any:
    """Return a client of Azure's. Raises ``Skip`` where the server knows none of its forms."""
    if not run["is_there"]:
        raise Skip("not there: /openai/...")
    kind = openai.AsyncAzureOpenAI if run.is_async else openai.AzureOpenAI
    given = {"api_key": run.api_key, "api_version": VERSION, **options}
    if "base_url" not in given:
        given["azure_endpoint"] = run.origin
    return kind(**given)


async def say(client: Any, model: str, **options: Any) -> Any:
    """Return an answer to a chat."""
    return await now(
        client.chat.completions.create(model=model, messages=USER, max_tokens=4, **options)
    )


@scenario
async def azure_files(run: Run) -> None:
    client = azure(run)
    file = await now(client.files.create(file=("a.jsonl", chat_rows()), purpose="fine-tune"))
    assert (await now(client.files.wait_for_processing(file.id, poll_interval=0.01))).id == file.id
    assert file.id in [one.id for one in await listed(client.files.list())]
    assert (await now(client.files.content(file.id))).read() == chat_rows()
    run["file"] = file.id


@scenario
async def azure_jobs(run: Run) -> None:
    client = azure(run, azure_deployment="none")  # older ones write it before files and jobs too
    jobs = client.fine_tuning.jobs
    assert (await now(client.files.retrieve(run["file"]))).id == run["file"]
    job = await now(
        jobs.create(
            model=run.model, training_file=run["file"], extra_body={"trainingType": "standard"}
        )
    )
    assert job.status == "validating_files", job
    assert job.id in [one.id for one in await listed(jobs.list(limit=2))]
    ended = await now(jobs.cancel(job.id))
    assert ended.status in TERMINAL
    events = await now(jobs.list_events(job.id))
    assert events.data[-1].message == f"Created fine-tuning job: {job.id}"
    assert (await now(jobs.checkpoints.list(job.id))).data == []


@scenario
async def azure_model_as_deployment(run: Run) -> None:
    answer = await say(azure(run), run.model)
    assert answer.choices[0].message.role == "assistant"
    text = await now(azure(run).completions.create(model=run.model, prompt="abc", max_tokens=2))
    assert text.choices


@scenario
async def azure_deployment_of_the_client(run: Run) -> None:
    client = azure(run, azure_deployment=run.model)
    named, plain = await say(client, "whatever"), await say(azure(run), run.model)
    assert named.model == plain.model, "the path decides, not the body"


@scenario
async def azure_streaming(run: Run) -> None:
    whole = await say(azure(run), run.model, temperature=0)
    chunks = await listed(await say(azure(run), run.model, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content


@scenario
async def azure_base_url_of_ones_own(run: Run) -> None:
    for base in ("/openai", f"/openai/deployments/{run.model}"):
        assert (await say(azure(run, base_url=run.origin + base), run.model)).choices


@scenario
async def azure_token(run: Run) -> None:
    client = azure(run, api_key=None, azure_ad_token=run.api_key)
    assert (await say(client, run.model)).choices


@scenario
async def azure_errors(run: Run) -> None:
    client = azure(run)
    gone = await failure(openai.NotFoundError, lambda: say(client, "no-deployment"))
    assert gone.code == "DeploymentNotFound", gone
    lost = await failure(openai.NotFoundError, lambda: client.files.retrieve("file-none"))
    assert lost.code == "resourceNotFound", lost


@scenario
async def azure_deployments(run: Run) -> None:
    name = f"dep-{uuid.uuid4().hex[:8]}"
    url = f"{run.origin}{ACCOUNT}/deployments/{name}?api-version={VERSION}"
    model = {"format": "OpenAI", "name": run.model, "version": "1"}
    client = azure(run)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {run.api_key}"}) as plane:
        body = {"sku": {"name": "standard"}, "properties": {"model": model}}
        made = await plane.put(url, json=body)
        assert made.status_code == 201, made.text
        assert made.json()["properties"]["provisioningState"] == "Succeeded"
        assert (await say(client, name)).choices
        assert (await plane.delete(url)).status_code == 200
    await failure(openai.NotFoundError, lambda: say(client, name))


@scenario
async def azure_v1_without_a_version(run: Run) -> None:
    azure(run)
    kind: Callable[..., Any] = openai.AsyncOpenAI if run.is_async else openai.OpenAI
    for headers in ({}, {"api-key": run.api_key}):
        client = kind(
            base_url=f"{run.origin}/openai/v1/", api_key=run.api_key, default_headers=headers
        )
        assert run["file"] in [file.id for file in await listed(client.files.list())]
        assert (await say(client, run.model)).choices


@scenario
async def azure_delete(run: Run) -> None:
    client = azure(run)
    assert (await now(client.files.delete(run["file"]))).deleted is True
    await failure(openai.NotFoundError, lambda: client.files.retrieve(run["file"]))


if __name__ == "__main__":
    main(is_absent, begin)
