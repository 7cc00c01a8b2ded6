"""OpenAI's first fine-tuning API over the jobs of today."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from api_calls import error_of, upload

from sintonia.api.following import Pace, follow_events
from sintonia.domain.jobs import JobDraft

FINE_TUNES = "/v1/fine-tunes"


@pytest.fixture
def file_id(client) -> str:
    pairs = [json.dumps({"prompt": f"{n} ->", "completion": f" {n}\n"}) for n in range(12)]
    return upload(client, "\n".join(pairs).encode())["id"]


def create(client, file_id, **parameters):
    body = {"model": "gpt-tiny", "training_file": file_id, **parameters}
    return client.post(FINE_TUNES, json=body)


def test_a_fine_tune_has_every_field_of_the_first_api(client, file_id):
    made = create(client, file_id, n_epochs=3, suffix="old", validation_file=file_id).json()
    file = client.get(f"/v1/files/{file_id}").json()
    assert made["id"].startswith("ft-")
    event = made["events"][0]
    assert event.pop("created_at") >= made["created_at"]
    assert event == {
        "object": "fine-tune-event",
        "level": "info",
        "message": f"Created fine-tuning job: {made['id'].replace('ft-', 'ftjob-')}",
    }
    assert made == {
        "id": made["id"],
        "object": "fine-tune",
        "model": "gpt-tiny",
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
        "fine_tuned_model": None,
        "hyperparams": {
            "n_epochs": 3,
            "batch_size": None,
            "learning_rate_multiplier": None,
            "prompt_loss_weight": 0.0,
        },
        "organization_id": "org-personal",
        "status": "pending",
        "training_files": [file],
        "validation_files": [file],
        "result_files": [],
        "events": [event],
    }


def test_both_apis_find_the_same_job(client, file_id):
    old = create(client, file_id).json()
    job_id = old["id"].replace("ft-", "ftjob-")
    assert client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["training_file"] == file_id
    for name in (old["id"], job_id):
        assert client.get(f"{FINE_TUNES}/{name}").json() == old
    body = {"model": "gpt-tiny", "training_file": file_id, "suffix": "new"}
    new = client.post("/v1/fine_tuning/jobs", json=body).json()
    listed = client.get(FINE_TUNES).json()
    assert listed["object"] == "list"
    assert [one["id"] for one in listed["data"]] == [old["id"], new["id"].replace("ftjob-", "ft-")]
    assert "events" not in listed["data"][0]


def test_the_first_api_began_with_curie(client, file_id):
    answer = client.post(FINE_TUNES, json={"training_file": file_id})
    assert answer.json()["model"] == "curie"
    assert {"ada", "babbage", "curie", "davinci"} <= {
        model["id"] for model in client.get("/v1/models").json()["data"]
    }


def test_parameters_of_the_first_api_are_accepted_and_named(client, file_id):
    given = {
        "prompt_loss_weight": 0.01,
        "compute_classification_metrics": True,
        "classification_n_classes": 2,
        "classification_positive_class": " yes",
        "classification_betas": [1, 2],
    }
    answer = create(client, file_id, batch_size=4, learning_rate_multiplier=0.1, **given)
    assert answer.json()["hyperparams"]["batch_size"] == 4
    assert answer.json()["hyperparams"]["learning_rate_multiplier"] == 0.1
    assert answer.headers["sintonia-ignored-parameters"] == ", ".join(given)


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"training_file": None}, "missing_required_parameter", "training_file"),
        ({"training_file": "file-x"}, None, "training_file"),
        ({"n_epochs": 0}, "integer_below_min_value", "n_epochs"),
        ({"model": "gpt-9"}, "model_not_available", "model"),
        ({"hyperparameters": {}}, "unknown_parameter", "hyperparameters"),
    ],
)
def test_what_is_wrong_is_refused_by_name(client, file_id, parameters, code, param):
    error_of(create(client, file_id, **parameters), 400, code, param)


def test_a_fine_tune_is_cancelled_once(client, file_id):
    made = create(client, file_id).json()
    ended = client.post(f"{FINE_TUNES}/{made['id']}/cancel").json()
    assert ended["status"] == "cancelled"
    assert ended["events"][-1]["message"] == "Fine-tuning job cancelled"
    error_of(client.post(f"{FINE_TUNES}/{made['id']}/cancel"), 400)


def test_files_that_are_gone_are_left_out(client, file_id):
    made = create(client, file_id).json()
    client.delete(f"/v1/files/{file_id}")
    assert client.get(f"{FINE_TUNES}/{made['id']}").json()["training_files"] == []


@pytest.mark.parametrize("part", ["", "/events", "/events?stream=true", "/cancel"])
def test_an_unknown_fine_tune_is_404_and_named_as_asked(client, part):
    method = "POST" if part == "/cancel" else "GET"
    answer = client.request(method, f"{FINE_TUNES}/ft-nothing{part}")
    assert "ft-nothing" in error_of(answer, 404, None, "fine_tuning_job_id")


def test_events_are_listed_from_the_first_on(client, file_id):
    made = create(client, file_id).json()
    client.post(f"{FINE_TUNES}/{made['id']}/cancel")
    listed = client.get(f"{FINE_TUNES}/{made['id']}/events").json()
    assert listed["object"] == "list"
    messages = [event["message"] for event in listed["data"]]
    assert messages[0].startswith("Created fine-tuning job")
    assert messages[-1] == "Fine-tuning job cancelled"


@pytest.mark.parametrize("prefix", ["/v1", "/openai"])
def test_a_stream_follows_a_job_to_its_end(client, services, file_id, prefix):
    made = create(client, file_id).json()
    job_id = made["id"].replace("ft-", "ftjob-")

    def end_it() -> None:
        time.sleep(0.3)
        services.store.jobs.add_event(job_id, "late")
        services.store.jobs.cancel(job_id)

    ender = threading.Thread(target=end_it)
    ender.start()
    answer = client.get(f"{prefix}/fine-tunes/{made['id']}/events?stream=true")
    ender.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {event["object"] for event in events} == {"fine-tune-event"}
    messages = [event["message"] for event in events]
    assert messages[1:] == ["late", "Fine-tuning job cancelled"]


def test_a_follower_hears_that_the_server_lives(services):
    store = services.store
    job = store.jobs.create(JobDraft(model="tiny", base_model="tiny", training_file="file-x"))

    async def heard() -> list[str | None]:
        found = []
        async for event in follow_events(store, job.id, Pace(0.01, 0.05)):
            found.append(event and event.message)
            if event is None and found.count(None) == 2:
                store.jobs.cancel(job.id)
        return found

    found = asyncio.run(heard())
    assert found[1:3] == [None, None]
    assert found[-1] == "Fine-tuning job cancelled"


def test_a_follower_misses_none_of_many_events(services):
    store = services.store
    job = store.jobs.create(JobDraft(model="tiny", base_model="tiny", training_file="file-x"))
    for number in range(250):
        store.jobs.add_event(job.id, str(number))
    store.jobs.cancel(job.id)

    async def heard() -> list[str]:
        return [event.message async for event in follow_events(store, job.id)]

    assert asyncio.run(heard())[1:-1] == [str(number) for number in range(250)]
