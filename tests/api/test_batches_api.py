"""Batches over HTTP, run by the application itself over the echo engine."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from api_calls import error_of, upload
from fastapi.testclient import TestClient

from sintonia.api.app import create_app
from sintonia.api.batching.answering import ANSWERERS
from sintonia.api.batching.runner import batch_slots
from sintonia.api.schemas.batches import Endpoint
from sintonia.domain.batches import BatchDraft, BatchStatus
from sintonia.errors import EngineUnavailable, TooManyRequests
from sintonia.generation.base import GenerationRequest, TokenChunk
from sintonia.generation.engines.echo import EchoEngine
from sintonia.store.tables import BATCHES
from tiny_models import wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ENDED = {"failed", "completed", "expired", "cancelled"}


def request(number: int, url: str = CHAT, **body) -> dict:
    content = {"messages": [{"role": "user", "content": f"say {number}"}]}
    prompt = {"prompt": f"say {number}"}
    given = {"model": "gpt-tiny", **(content if url == CHAT else prompt), **body}
    return {"custom_id": f"r-{number}", "method": "POST", "url": url, "body": given}


def too_long(number: int) -> dict:
    return request(number, messages=[{"role": "user", "content": "x" * 600}])


def upload_requests(client, requests) -> str:
    content = b"\n".join(json.dumps(line).encode() for line in requests)
    return upload(client, content, purpose="batch")["id"]


def create(client, requests, **options) -> dict:
    body = {"endpoint": CHAT, "completion_window": "24h", **options}
    answer = client.post(
        "/v1/batches", json={"input_file_id": upload_requests(client, requests), **body}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(client, batch: dict) -> dict:
    return client.get(f"/v1/batches/{batch['id']}").json()


def ended(client, batch: dict) -> dict:
    wait_until(lambda: get(client, batch)["status"] in ENDED)
    return get(client, batch)


def records(client, file_id: str | None) -> dict[str, dict]:
    """Return the lines of a file by ``custom_id``, each of which must be there once."""
    if file_id is None:
        return {}
    lines = [
        json.loads(line) for line in client.get(f"/v1/files/{file_id}/content").text.splitlines()
    ]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    assert all(list(line) == ["id", "custom_id", "response", "error"] for line in lines)
    assert len({line["id"] for line in lines}) == len(lines)
    return found


@dataclass
class SlowEcho(EchoEngine):
    """An echo that waits before each token."""

    seconds: float = 0.0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        async for chunk in super().stream(request):
            await asyncio.sleep(self.seconds)
            yield chunk


def test_every_line_gets_the_answer_that_the_endpoint_gives(client):
    batch = create(client, [request(1), request(2), too_long(3), request(4, n=3, seed=1)])
    assert batch["id"].startswith("batch_")
    assert batch["status"] == "validating"
    done = ended(client, batch)
    output, errors = (records(client, done[f"{kind}_file_id"]) for kind in ("output", "error"))
    assert (set(output), set(errors)) == ({"r-1", "r-2", "r-4"}, {"r-3"})
    usages = []
    for number, options in ((1, {}), (2, {}), (4, {"n": 3, "seed": 1})):
        line = output[f"r-{number}"]
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["request_id"].startswith("req_")
        direct = client.post(CHAT, json=request(number, **options)["body"]).json()
        usages.append(direct["usage"])
        own = {"id", "created"}
        body = line["response"]["body"]
        assert list(body) == list(direct)
        assert {k: body[k] for k in body.keys() - own} == {
            k: direct[k] for k in direct.keys() - own
        }
    direct = client.post(CHAT, json=too_long(3)["body"])
    assert errors["r-3"]["response"]["status_code"] == 400
    assert errors["r-3"]["response"]["body"] == direct.json()
    assert done["usage"] == {
        "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": sum(usage["completion_tokens"] for usage in usages),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(usage["total_tokens"] for usage in usages),
    }


def test_a_batch_tells_what_openai_tells(client):
    options = {"metadata": {"night": "1"}}
    requests = [request(1), too_long(2)]
    batch = create(client, requests, **options)
    done = ended(client, batch)
    times = {key for key in done if key.endswith("_at")}
    assert {key for key in times if done[key] is not None} == {
        "created_at",
        "in_progress_at",
        "expires_at",
        "finalizing_at",
        "completed_at",
    }
    assert done["expires_at"] == done["created_at"] + 86_400
    files = {done.pop("output_file_id"), done.pop("error_file_id")}
    assert {key: done[key] for key in done.keys() - times - {"id", "usage"}} == {
        "object": "batch",
        "endpoint": CHAT,
        "model": "gpt-tiny",
        "errors": None,
        "input_file_id": batch["input_file_id"],
        "completion_window": "24h",
        "status": "completed",
        "request_counts": {"total": 2, "completed": 1, "failed": 1},
        "metadata": {"night": "1"},
    }
    shown = [client.get(f"/v1/files/{file_id}").json() for file_id in files]
    assert {file["filename"] for file in shown} == {
        f"{batch['id']}_output.jsonl",
        f"{batch['id']}_error.jsonl",
    }
    assert all(file["purpose"] == "batch_output" for file in shown)
    assert all("expires_at" not in file for file in shown)


def test_raw_completions_work_too_and_a_file_that_would_be_empty_is_not_made(client, services):
    batch = create(client, [request(n, COMPLETIONS) for n in range(5)], endpoint=COMPLETIONS)
    done = ended(client, batch)
    assert done["error_file_id"] is None
    output = records(client, done["output_file_id"])
    texts = [output[f"r-{n}"]["response"]["body"]["choices"][0]["text"] for n in range(5)]
    assert texts == [f"say {n}" for n in range(5)]
    wait_until(
        lambda: [p.name for p in (services.settings.home / "batches").iterdir()] == [".lock"]
    )


def test_files_of_answers_go_when_it_was_asked_for(client):
    expiry = {"anchor": "created_at", "seconds": 7200}
    done = ended(client, create(client, [request(1), too_long(2)], output_expires_after=expiry))
    for kind in ("output", "error"):
        file = client.get(f"/v1/files/{done[f'{kind}_file_id']}").json()
        assert file["expires_at"] == file["created_at"] + 7200


def test_output_may_be_larger_than_what_may_be_uploaded(client, services):
    limit = services.settings.max_file_bytes
    shape = {"prompt": "y" * 400, "echo": True, "n": 128, "max_tokens": 1}
    lines = [request(n, COMPLETIONS, **shape) for n in range(4)]
    done = ended(client, create(client, lines, endpoint=COMPLETIONS))
    assert client.get(f"/v1/files/{done['output_file_id']}").json()["bytes"] > limit


def test_nothing_runs_when_anything_is_wrong_and_every_line_is_told(client):
    lines = [request(1), {**request(1), "url": COMPLETIONS}, {"custom_id": "x"}]
    failed = ended(client, create(client, lines))
    assert failed["status"] == "failed"
    assert failed["failed_at"] is not None
    assert failed["errors"]["object"] == "list"
    told = [(e["code"], e["param"], e["line"]) for e in failed["errors"]["data"]]
    assert told == [
        ("duplicate_custom_id", "custom_id", 2),
        ("url_mismatch", "url", 2),
        ("missing_required_parameter", "method", 3),
        ("missing_required_parameter", "url", 3),
        ("missing_required_parameter", "body", 3),
    ]
    assert (failed["output_file_id"], failed["error_file_id"]) == (None, None)
    assert failed["request_counts"] == {"total": 0, "completed": 0, "failed": 0}


def test_a_model_that_does_not_exist_fails_the_batch_before_it_runs(client):
    failed = ended(client, create(client, [request(1, model="gpt-9"), request(2, model="gpt-9")]))
    (error,) = failed["errors"]["data"]
    assert (error["code"], error["param"], error["line"]) == ("model_not_found", "body.model", 1)
    assert "gpt-9" in error["message"]


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"input_file_id": None}, "missing_required_parameter", "input_file_id"),
        ({"input_file_id": "file-x"}, None, "input_file_id"),
        ({"endpoint": None}, "missing_required_parameter", "endpoint"),
        ({"endpoint": "/v1/embeddings"}, "invalid_value", "endpoint"),
        ({"completion_window": None}, "missing_required_parameter", "completion_window"),
        ({"completion_window": "48h"}, "invalid_value", "completion_window"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
            "integer_below_min_value",
            "output_expires_after.seconds",
        ),
        (
            {"output_expires_after": {"anchor": "last_active_at", "seconds": 3600}},
            "invalid_value",
            "output_expires_after.anchor",
        ),
        ({"priority": 1}, "unknown_parameter", "priority"),
    ],
)
def test_a_bad_batch_is_400(client, changes, code, param):
    body = {
        "input_file_id": upload_requests(client, [request(1)]),
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    message = error_of(client.post("/v1/batches", json={**body, **changes}), 400, code, param)
    if changes.get("endpoint"):
        assert CHAT in message
        assert COMPLETIONS in message


def test_a_file_of_another_purpose_is_refused(client):
    body = {"input_file_id": upload(client)["id"], "endpoint": CHAT, "completion_window": "24h"}
    answer = client.post("/v1/batches", json=body)
    error_of(answer, 400, "invalid_file_purpose", "input_file_id")


def test_batches_are_listed_newest_first(client):
    made = [create(client, [request(1)])["id"] for _ in range(3)]
    page = client.get("/v1/batches", params={"limit": 2}).json()
    assert [batch["id"] for batch in page["data"]] == [made[2], made[1]]
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (made[2], made[1])
    rest = client.get("/v1/batches", params={"after": made[1]}).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == ([made[0]], False)
    error_of(client.get("/v1/batches?limit=101"), 400, "integer_above_max_value", "limit")
    error_of(client.get("/v1/batches?after=batch_x"), 400, "invalid_value", "after")


def test_an_unknown_batch_is_404(client):
    error_of(client.get("/v1/batches/batch_x"), 404, None, "batch_id")
    error_of(client.post("/v1/batches/batch_x/cancel"), 404, None, "batch_id")


@pytest.fixture
def slow(services):
    """Services whose answers take a while, and how to have an application over them."""

    def open_client(seconds: float = 0.02, slots: int = 2) -> TestClient:
        engine = SlowEcho(slots=slots, queue=2, seconds=seconds)
        app = create_app(replace(services, engine=engine))
        return TestClient(app, "http://127.0.0.1:8000")

    return open_client


def test_a_cancelled_batch_ends_soon_and_keeps_what_was_done(slow):
    with slow() as client:
        batch = create(client, [request(n, max_tokens=3) for n in range(300)])
        wait_until(lambda: get(client, batch)["request_counts"]["completed"] > 2)
        cancelling = client.post(f"/v1/batches/{batch['id']}/cancel").json()
        assert cancelling["status"] == "cancelling"
        assert cancelling["cancelling_at"] is not None
        wait_until(lambda: get(client, batch)["status"] == "cancelled", timeout_seconds=5)
        done = get(client, batch)
        output, errors = (records(client, done[f"{kind}_file_id"]) for kind in ("output", "error"))
        assert set(output) | set(errors) == {f"r-{n}" for n in range(300)}
        assert 2 < len(output) < 300
        assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}
        assert {line["response"] for line in errors.values()} == {None}
        counts = {"total": 300, "completed": len(output), "failed": len(errors)}
        assert done["request_counts"] == counts
        answer = client.post(f"/v1/batches/{batch['id']}/cancel")
        assert "status 'cancelled'" in error_of(answer, 400)


def test_a_batch_whose_window_ends_expires_with_what_was_done(slow, services):
    with slow() as client:
        batch = create(client, [request(n, max_tokens=3) for n in range(300)])
        wait_until(lambda: get(client, batch)["request_counts"]["completed"] > 2)
        end_window(services, batch)
        done = ended(client, batch)
        assert (done["status"], done["expired_at"] is not None) == ("expired", True)
        output, errors = (records(client, done[f"{kind}_file_id"]) for kind in ("output", "error"))
        assert set(output) | set(errors) == {f"r-{n}" for n in range(300)}
        assert 2 < len(output) < 300
        assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}


def end_window(services, batch: dict) -> None:
    with services.store._database.write() as connection:
        change = BATCHES.update().where(BATCHES.c.id == batch["id"])
        connection.execute(change.values(expires_at=batch["created_at"]))


def test_a_stopped_server_leaves_a_batch_that_the_next_one_goes_on_with(slow, services):
    with slow() as client:
        batch = create(client, [request(n, max_tokens=3) for n in range(60)])
        wait_until(lambda: get(client, batch)["request_counts"]["completed"] > 2)
    half_way = services.store.batches.get(batch["id"])
    assert half_way.status is BatchStatus.IN_PROGRESS
    book = services.settings.home / "batches" / batch["id"] / "output.jsonl"
    done_before = {json.loads(line)["id"] for line in book.read_bytes().splitlines()}
    assert 2 < len(done_before) < 60
    with slow(seconds=0.0) as client:
        done = ended(client, batch)
        output = records(client, done["output_file_id"])
    assert set(output) == {f"r-{n}" for n in range(60)}
    assert done_before < {line["id"] for line in output.values()}
    assert done["request_counts"] == {"total": 60, "completed": 60, "failed": 0}


def test_an_input_that_was_deleted_before_it_was_read_fails_the_batch(services, client):
    file_id = upload_requests(client, [request(1)])
    client.delete(f"/v1/files/{file_id}")
    batch = services.store.batches.create(BatchDraft(file_id, CHAT))
    wait_until(lambda: services.store.batches.get(batch.id).status.is_terminal)
    (problem,) = services.store.batches.get(batch.id).problems
    assert problem.code == "file_not_found"


def test_an_input_that_is_deleted_while_it_runs_is_not_missed(slow):
    with slow() as client:
        batch = create(client, [request(n, max_tokens=3) for n in range(30)])
        wait_until(lambda: get(client, batch)["status"] == "in_progress")
        client.delete(f"/v1/files/{batch['input_file_id']}")
        assert ended(client, batch)["request_counts"]["completed"] == 30


@dataclass
class MoodyEcho(EchoEngine):
    """An echo that refuses, goes away in the middle, or breaks, as often as it is told to."""

    refusals: int = 0
    losses: int = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if self.refusals:
            self.refusals -= 1
            refusal = TooManyRequests("full")
            refusal.retry_after_seconds = 0
            raise refusal
        async for chunk in super().stream(request):
            if len(request.prompt_ids) == 7:
                raise ZeroDivisionError
            yield chunk
            if self.losses:
                self.losses -= 1
                raise EngineUnavailable("gone", retry_after_seconds=0)


@pytest.fixture
def moody(services):
    engine = MoodyEcho(slots=2, queue=2)
    app = create_app(replace(services, engine=engine))
    with TestClient(app, "http://127.0.0.1:8000") as client:
        yield client, engine


def test_a_full_queue_and_a_lost_engine_are_waited_out(moody):
    client, engine = moody
    engine.refusals, engine.losses = 20, 5
    done = ended(client, create(client, [request(n) for n in range(5)]))
    assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert (engine.refusals, engine.losses) == (0, 0)


def test_a_fault_of_ours_in_one_request_is_the_end_of_that_one_alone(moody):
    client, _ = moody
    lines = [request(1, COMPLETIONS), request(2, COMPLETIONS, prompt="seven!!")]
    done = ended(client, create(client, lines, endpoint=COMPLETIONS))
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    response = records(client, done["error_file_id"])["r-2"]["response"]
    assert response["status_code"] == 500
    assert response["body"]["error"]["type"] == "server_error"
    assert "ZeroDivisionError" not in json.dumps(response)


def test_batches_leave_room_for_those_who_wait(services, slow):
    settings = replace(services.settings, engine_slots=16)
    assert batch_slots(settings) == 8
    assert batch_slots(replace(settings, batch_slots=100)) == 15
    assert batch_slots(replace(settings, engine_slots=1)) == 1
    with slow() as client:
        many = [request(n, n=100, max_tokens=3) for n in range(3)]  # far more than the queue holds
        batch = create(client, many)
        wait_until(lambda: client.get("/health/ready").json()["running"] > 0)
        for number in range(5):
            answer = client.post(CHAT, json=request(number, max_tokens=2)["body"])
            assert answer.status_code == 200
            assert client.get("/health/ready").json()["running"] <= 1
        assert get(client, batch)["status"] == "in_progress"
        client.post(f"/v1/batches/{batch['id']}/cancel")


def test_a_small_batch_need_not_wait_for_a_large_one(slow):
    with slow() as client:
        large = create(client, [request(n, max_tokens=3) for n in range(300)])
        wait_until(lambda: get(client, large)["status"] == "in_progress")
        small = create(client, [request(n, max_tokens=3) for n in range(3)])
        assert ended(client, small)["status"] == "completed"
        assert get(client, large)["status"] == "in_progress"


def test_one_process_at_a_time_runs_the_batches_of_a_home(services):
    lock = (services.settings.home / "batches" / ".lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    app = create_app(services)
    with TestClient(app, "http://127.0.0.1:8000") as client:
        batch = create(client, [request(1)])
        assert get(client, batch)["status"] == "validating"
        lock.close()
        assert ended(client, batch)["status"] == "completed"


def test_each_endpoint_that_is_offered_is_answered():
    assert set(ANSWERERS) == set(get_args(Endpoint))
