"""Azure's clients, unmodified, against a real server that trains and answers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
from live import LiveServer, chat_rows, create_job, home_with_tiny, result_rows, wait_for_job

DOCS = Path(__file__).parents[2] / "docs"
VERSION = "2024-10-21"
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"
USER = {"role": "user", "content": "Say 3"}


@pytest.fixture(scope="module")
def url(tiny_home, tmp_path_factory):
    home = home_with_tiny(tiny_home, tmp_path_factory.mktemp("azure"))
    (home / "sintonia.toml").write_text('[aliases]\n"gpt-4o-mini*" = "tiny"\n')
    live = LiveServer(home).start()
    yield live.record()["url"]
    live.stop()


@pytest.fixture(scope="module")
def client(url):
    with openai.AzureOpenAI(azure_endpoint=url, api_key="any", api_version=VERSION) as client:
        yield client


@pytest.fixture(scope="module")
def job(client):
    made = create_job(client, extra_body={"trainingType": "globalstandard"})
    ended = wait_for_job(client, made.id)
    assert ended.status == "succeeded", ended.error
    return ended


def deploy(url: str, name: str, model: str) -> httpx.Response:
    body = {"sku": {"name": "standard"}, "properties": {"model": {"name": model}}}
    return httpx.put(f"{url}{ACCOUNT}/deployments/{name}?api-version={VERSION}", json=body)


def test_the_script_of_the_docs_runs_as_it_stands(url, tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", (DOCS / "azure.md").read_text(), re.DOTALL)
    (tmp_path / "train.jsonl").write_bytes(chat_rows(12))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "AZURE_OPENAI_ENDPOINT": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The job has successfully completed" in done.stdout
    assert "\nft:gpt-4o-mini-2024-07-18:" in done.stdout
    assert ":support:" in done.stdout


def test_a_tuned_model_is_followed_deployed_asked_and_deleted(url, client, job):
    assert client.files.retrieve(job.training_file).status == "processed"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert messages[0] == "The job has successfully completed"
    first, *_ = result_rows(client, job)
    assert "validation_mean_token_accuracy" in first
    assert float(first["train_mean_token_accuracy"]) >= 0
    checkpoint, *_ = client.fine_tuning.jobs.checkpoints.list(job.id)
    for name, model in (("dep-1", job.fine_tuned_model), ("dep-2", checkpoint.id)):
        assert deploy(url, name, model).status_code == 201
        answer = client.chat.completions.create(model=name, messages=[USER], max_tokens=3)
        assert answer.model.startswith(job.fine_tuned_model)
    own = client.completions.create(model=job.fine_tuned_model, prompt="abc", max_tokens=3)
    assert own.model == job.fine_tuned_model
    listed = httpx.get(f"{url}{ACCOUNT}/deployments").json()["value"]
    assert {"dep-1", "dep-2"} <= {one["name"] for one in listed}
    assert httpx.delete(f"{url}{ACCOUNT}/deployments/dep-1").status_code == 200
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="dep-1", messages=[USER])
    assert caught.value.code == "DeploymentNotFound"


def test_the_asynchronous_client_works_too_and_streams(url, job):
    async def whole_story() -> tuple[str, list[str]]:
        async with openai.AsyncAzureOpenAI(
            azure_endpoint=url, azure_ad_token="token", api_version=VERSION, azure_deployment="tiny"
        ) as client:
            file = await client.files.create(file=("t.jsonl", chat_rows(12)), purpose="fine-tune")
            made = await client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
            ended = await client.fine_tuning.jobs.cancel(made.id)
            events = await client.fine_tuning.jobs.list_events(made.id)
            await client.fine_tuning.jobs.checkpoints.list(made.id)
            chunks = await client.chat.completions.create(
                model="whatever", messages=[USER], max_tokens=3, stream=True
            )
            models = [chunk.model async for chunk in chunks]
            await client.files.delete(file.id)
            with pytest.raises(openai.NotFoundError) as caught:
                await client.files.retrieve(file.id)
            assert caught.value.code == "resourceNotFound"
            assert events.data[0].message == "Fine-tuning job cancelled"
        return ended.status, models

    status, models = asyncio.run(whole_story())
    assert status == "cancelled"
    assert set(models) == {"tiny"}


@pytest.mark.parametrize("base", ["/v1", "/openai", "/openai/deployments/tiny"])
def test_a_base_url_of_ones_own_works_with_azures_client(url, base):
    with openai.AzureOpenAI(base_url=url + base, api_key="any", api_version=VERSION) as client:
        assert "tiny" in {model.id for model in client.models.list()}
        answer = client.chat.completions.create(model="tiny", messages=[USER], max_tokens=2)
        assert answer.model == "tiny"


def test_openais_client_works_on_azures_v1_path(url, job):
    assert deploy(url, "dep-v1", job.fine_tuned_model).status_code == 201
    with openai.OpenAI(base_url=f"{url}/openai/v1/", api_key="any") as client:
        answer = client.chat.completions.create(model="dep-v1", messages=[USER], max_tokens=2)
        assert answer.model == job.fine_tuned_model
        assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"


def test_a_client_of_2023_tunes_pairs_and_follows_the_job_as_it_trains(url):
    query, pairs = {"api-version": "2022-12-01"}, b'{"prompt": "a ->", "completion": " b"}\n' * 12
    with httpx.Client(base_url=f"{url}/openai", params=query, timeout=240) as http:
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("file", pairs)}}
        file = http.post("/files", **form).json()
        assert file["status"] == "succeeded"
        body = {"training_file": file["id"], "model": "tiny", "n_epochs": 1, "batch_size": 4}
        made = http.post("/fine-tunes", json=body).json()
        stream = http.get(f"/fine-tunes/{made['id']}/events", params={**query, "stream": "true"})
        assert "The job has successfully completed" in stream.text
        assert stream.text.endswith("data: [DONE]\n\n")
        ended = http.get(f"/fine-tunes/{made['id']}").json()
        assert (ended["status"], ended["hyperparams"]["n_epochs"]) == ("succeeded", 1)
        assert ended["result_files"][0]["purpose"] == "fine-tune-results"
        named = {"model": ended["fine_tuned_model"], "scale_settings": {"scale_type": "standard"}}
        name = http.post("/deployments", json=named).json()["id"]
        ask = {"prompt": "a ->", "max_tokens": 2}
        answer = http.post(f"/deployments/{name}/completions", json=ask).json()
        assert answer["model"] == ended["fine_tuned_model"]
        assert http.delete(f"/models/{ended['fine_tuned_model']}").json()["deleted"] is True
