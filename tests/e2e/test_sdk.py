"""The unmodified ``openai`` client over real HTTP, against the API with the echo engine."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn

from sintonia import catalog as catalog_module
from sintonia import settings as settings_module
from sintonia.api.app import create_app
from sintonia.api.services import Services
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.jobs import EventType
from sintonia.domain.models import Model, ModelKind
from sintonia.generation.base import GenerationRequest, TokenChunk
from sintonia.generation.engines.echo import EchoEngine
from sintonia.store import Store
from tiny_models import wait_until

TUNED = "ft:tiny:personal:tickets:0abcdEFG"
USER = {"role": "user", "content": "hello"}


class UnhurriedEcho(EchoEngine):
    """An echo that takes its time over prompts of more than 300 tokens."""

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        async for chunk in super().stream(request):
            yield chunk
            if len(request.prompt_ids) > 300:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def services(tmp_path_factory, tiny_home: Path) -> Iterator[Services]:
    home = tmp_path_factory.mktemp("sdk")
    shutil.copytree(tiny_home / "models", home / "models")
    settings = settings_module.load({}, home=home, max_file_bytes=1_000_000, engine="echo")
    catalog = catalog_module.load({"gpt-4o-mini*": "tiny"})
    store = Store.open(settings)
    services = Services(
        settings, store, Library(home, catalog), catalog, UnhurriedEcho(slots=8, queue=8)
    )
    register_tuned(services)
    yield services
    store.close()


def register_tuned(services: Services) -> None:
    base = services.library.find("tiny").ref
    folder = services.settings.home / "models" / "tuned" / "one"
    shutil.copytree(base.folder, folder)
    card = {"template_sha256": Renderer.from_folder(folder).template_sha256}
    (folder / "model_card.json").write_text(json.dumps(card), encoding="utf-8")
    names = {TUNED: ModelKind.TUNED, f"{TUNED}:ckpt-step-3": ModelKind.CHECKPOINT}
    for name, kind in names.items():
        services.store.models.add(
            Model(name, kind, 1, "personal", base, str(folder), "a" * 64, "ftjob-none")
        )


@pytest.fixture(scope="module")
def server_url(services: Services) -> Iterator[str]:
    config = uvicorn.Config(create_app(services), port=0, log_level="warning", http="h11")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def file_id(client: openai.OpenAI) -> str:
    row = {"messages": [USER, {"role": "assistant", "content": "hi"}]}
    content = "\n".join([json.dumps(row)] * 10).encode()
    return client.files.create(file=("train.jsonl", content), purpose="fine-tune").id


def test_files_are_made_waited_for_read_and_deleted(client, tmp_path):
    path = tmp_path / "notes.bin"
    path.write_bytes(b"\0\1\2" * 1000)
    file = client.files.create(file=path, purpose="user_data")
    assert (file.filename, file.bytes, file.status) == ("notes.bin", 3000, "processed")
    assert client.files.wait_for_processing(file.id, poll_interval=0.01).id == file.id
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == path.read_bytes()
    assert client.files.delete(file.id).deleted is True
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.retrieve(file.id)


def test_paging_by_itself_finds_every_file(client):
    made = {
        client.files.create(file=(f"{number}.txt", b"x"), purpose="batch").id for number in range(7)
    }
    listed = [file.id for file in client.files.list(purpose="batch", limit=2)]
    assert len(listed) == len(set(listed))
    assert made == set(listed)


def test_a_broken_data_file_says_so_in_its_status(client):
    file = client.files.create(file=("bad.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
    assert file.status == "error"
    assert "Example 1" in file.status_details


def test_a_job_is_made_followed_and_cancelled(client, file_id):
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=file_id,
        suffix="demo",
        seed=1,
        metadata={"team": "sdk"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    assert job.status == "validating_files"
    assert job.model == "gpt-4o-mini-2024-07-18"
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == "auto"
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="already completed"):
        client.fine_tuning.jobs.cancel(job.id)
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [event.message for event in events] == [
        "Fine-tuning job cancelled",
        f"Created fine-tuning job: {job.id}",
    ]
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []


def test_paging_by_itself_finds_every_job_and_event(client, services, file_id):
    jobs = [
        client.fine_tuning.jobs.create(
            model="tiny", training_file=file_id, metadata={"batch": "paging"}
        ).id
        for _ in range(5)
    ]
    listed = client.fine_tuning.jobs.list(limit=2, metadata={"batch": "paging"})
    assert [job.id for job in listed] == jobs[::-1]
    for step in range(1, 50):
        services.store.jobs.add_event(
            jobs[0], f"Step {step}/49", type=EventType.METRICS, data={"step": step}
        )
    events = list(client.fine_tuning.jobs.list_events(jobs[0], limit=20))
    assert len(events) == 50
    assert events[0].data == {"step": 49}


def test_mistakes_arrive_as_the_clients_own_errors(client, file_id):
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model="gpt-9", training_file=file_id)
    assert (caught.value.code, caught.value.param) == ("model_not_available", "model")
    assert caught.value.request_id.startswith("req_")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=[USER])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x" * 600}]
        )
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("tiny")
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("big.jsonl", b"x" * 1_000_001), purpose="fine-tune")
    assert caught.value.status_code == 413


def test_a_file_far_over_the_limit_gets_its_answer_while_it_is_sent(client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("big.jsonl", b"x" * 30_000_000), purpose="fine-tune")
    assert caught.value.code == "file_too_large"


def test_chat_answers_whole_and_streamed(client):
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=[USER], seed=1)
    assert whole.model == "gpt-4o-mini-2024-07-18"
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[USER],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_clients_streaming_helper_works(client):
    with client.chat.completions.stream(model="tiny", messages=[USER]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = client.chat.completions.create(model="tiny", messages=[USER])
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_raw_completions_answer_whole_and_streamed(client):
    whole = client.completions.create(model="tiny", prompt=["abc", "def"])
    assert [choice.text for choice in whole.choices] == ["abc", "def"]
    chunks = client.completions.create(model="tiny", prompt="abc", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "abc"


def test_the_client_reads_logprobs_whole_and_streamed(client):
    asked = {"model": "tiny", "messages": [USER], "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked).choices[0]
    assert bytes(b for t in whole.logprobs.content for b in t.bytes).decode() == (
        whole.message.content
    )
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.logprobs.content == whole.logprobs.content
    raw = client.completions.create(model="tiny", prompt="abc", logprobs=2, echo=True, max_tokens=0)
    assert raw.choices[0].logprobs.token_logprobs == [None, 0.0, 0.0]


def test_an_answer_of_the_client_can_be_sent_back_to_it(client):
    answer = client.chat.completions.parse(model="tiny", messages=[USER]).choices[0].message
    again = [USER, answer, USER]
    assert client.chat.completions.create(model="tiny", messages=again).choices
    dumped = [USER, answer.model_dump(), USER]
    assert client.chat.completions.create(model="tiny", messages=dumped).choices
    with pytest.raises(openai.BadRequestError, match="Unrecognized request argument supplied: x"):
        client.chat.completions.create(model="tiny", messages=[USER], extra_body={"x": 1})


def test_stored_completions_are_listed_changed_read_and_deleted(client):
    stored = client.chat.completions
    made = [
        stored.create(
            model="gpt-4o-mini", messages=[USER], store=True, metadata={"n": str(number % 2)}
        )
        for number in range(5)
    ]
    ids = [completion.id for completion in made]
    mine = {"model": "gpt-4o-mini", "limit": 2}
    assert [completion.id for completion in stored.list(**mine)] == ids
    assert [completion.id for completion in stored.list(**mine, order="desc")] == ids[::-1]
    assert [completion.id for completion in stored.list(metadata={"n": "1"})] == ids[1::2]
    assert stored.retrieve(ids[0]).choices == made[0].choices
    assert stored.update(ids[0], metadata={"n": "7"}).metadata == {"n": "7"}
    assert stored.update(ids[0], metadata=None).metadata == {}
    (message,) = stored.messages.list(ids[0])
    assert (message.id, message.role, message.content) == (f"{ids[0]}-0", "user", "hello")
    assert stored.delete(ids[0]).deleted is True
    with pytest.raises(openai.NotFoundError, match="No stored chat completion"):
        stored.retrieve(ids[0])
    with stored.stream(model="tiny", messages=[USER], store=True) as stream:
        assert stored.retrieve(stream.get_final_completion().id).model == "tiny"


def test_permissions_are_created_listed_and_deleted(client):
    permissions = client.fine_tuning.checkpoints.permissions
    projects = [f"proj_{number}" for number in range(3)]
    made = {one.project_id: one for one in permissions.create(TUNED, project_ids=projects)}
    assert list(made) == projects
    listed = [one.id for one in permissions.list(TUNED, limit=2, order="ascending")]
    assert listed == [made[project].id for project in projects]
    page = permissions.list(TUNED, project_id="proj_1")
    assert [one.id for one in page] == [made["proj_1"].id]
    with pytest.warns(DeprecationWarning, match="paginated list"):
        old = permissions.retrieve(TUNED)
    assert [one.project_id for one in old.data] == projects[::-1]
    first = made["proj_0"].id
    assert permissions.delete(first, fine_tuned_model_checkpoint=TUNED).deleted is True
    assert first not in [one.id for one in permissions.list(TUNED)]


def test_a_tuned_model_is_listed_asked_and_deleted_with_its_checkpoint(client):
    names = {model.id for model in client.models.list()}
    assert {TUNED, f"{TUNED}:ckpt-step-3", "tiny", "gpt-4o-mini"} <= names
    assert client.models.retrieve(TUNED).parent == "tiny"
    answer = client.chat.completions.create(model=TUNED, messages=[USER])
    assert answer.model == TUNED
    assert client.models.delete(TUNED).deleted is True
    for name in (TUNED, f"{TUNED}:ckpt-step-3"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=[USER])
        assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="Qwen/Qwen3"):
        client.models.retrieve("Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(server_url, stream):
    def running() -> int:
        return httpx.get(f"{server_url}/health/ready").json()["running"]

    # Left alone, this answer takes over seven seconds.
    body = {"model": "tiny", "prompt": "x" * 350, "max_tokens": 150, "stream": stream}
    with httpx.Client(timeout=5) as http:
        if stream:
            with http.stream("POST", f"{server_url}/v1/completions", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                assert running() == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(f"{server_url}/v1/completions", json=body, timeout=0.5)
    wait_until(lambda: running() == 0, timeout_seconds=3)
