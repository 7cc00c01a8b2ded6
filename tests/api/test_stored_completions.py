"""Stored chat completions over HTTP: kept on wish, listed, changed and forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from api_calls import error_of, upload
from fastapi.testclient import TestClient

from sintonia.api.app import create_app
from sintonia.api.keeping import HEADER, MOST_WAITING, Keeper, then_keep
from sintonia.api.sweeping import sweep, sweeps_of
from sintonia.domain.stored_completions import StoredCompletion
from sintonia.serving.answers import EndPiece, StopReason, TextPiece
from tiny_models import wait_until

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hello"}
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}


def chat(client, *messages, **parameters):
    body = {"model": "gpt-tiny", "messages": list(messages) or [USER], "store": True, **parameters}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return answer


def stored(client, **parameters) -> str:
    """Make and keep a completion; return its id."""
    return chat(client, **parameters).json()["id"]


def listed(client, query: str = "") -> list[str]:
    answer = client.get(f"{CHAT}?{query}")
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


def change(client, completion_id: str, metadata):
    return client.post(f"{CHAT}/{completion_id}", json={"metadata": metadata})


@contextmanager
def busy_database(services) -> Iterator[None]:
    """Be the only writer for a while."""
    path = services.settings.home / "sintonia.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_only_what_asks_for_it_is_stored(client):
    for parameters in ({"store": False}, {"store": None}, {"metadata": {"a": "b"}, "store": False}):
        stored(client, **parameters)
    assert client.get(CHAT).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_metadata_without_store_says_that_it_does_nothing(client):
    header = "sintonia-ignored-parameters"
    assert chat(client, store=False, metadata={"a": "b"}).headers[header] == "metadata"
    assert header not in chat(client, metadata={"a": "b"}).headers


def test_a_stored_completion_is_the_answer_and_what_was_asked(client):
    answer = chat(
        client,
        metadata={"task": "greeting"},
        temperature=0.5,
        seed=7,
        user="ann",
        tools=[TOOL],
        tool_choice="none",
    )
    whole = answer.json()
    kept = client.get(f"{CHAT}/{whole['id']}").json()
    assert {key: kept[key] for key in whole} == whole
    assert {key: value for key, value in kept.items() if key not in whole} == {
        "request_id": answer.headers["x-request-id"],
        "metadata": {"task": "greeting"},
        "input_user": "ann",
        "seed": 7,
        "temperature": 0.5,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "tools": [TOOL],
        "tool_choice": "none",
        "response_format": None,
    }
    assert client.get(CHAT).json()["data"] == [kept]


def test_a_streamed_answer_is_stored_as_the_whole_one(client):
    text = chat(client, stream=True, n=2).text
    first = json.loads(text.split("\n\n")[0].removeprefix("data: "))
    kept = client.get(f"{CHAT}/{first['id']}").json()
    whole = chat(client, n=2, store=False).json()
    assert (kept["choices"], kept["usage"]) == (whole["choices"], whole["usage"])
    assert kept["created"] == first["created"]


def test_every_choice_is_stored(client):
    kept = client.get(f"{CHAT}/{stored(client, n=3)}").json()
    assert [choice["index"] for choice in kept["choices"]] == [0, 1, 2]


def test_a_request_of_a_batch_is_stored_too(client):
    body = {"model": "gpt-tiny", "messages": [USER], "store": True, "metadata": {"from": "batch"}}
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": body}
    file = upload(client, json.dumps(line).encode(), purpose="batch")
    order = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    path = f"/v1/batches/{client.post('/v1/batches', json=order).json()['id']}"
    wait_until(lambda: client.get(path).json()["status"] == "completed")
    output = client.get(f"/v1/files/{client.get(path).json()['output_file_id']}/content").json()
    (kept,) = client.get(f"{CHAT}?metadata[from]=batch").json()["data"]
    assert kept["id"] == output["response"]["body"]["id"]
    assert kept["request_id"] is None


def test_the_list_is_oldest_first_and_paged_both_ways(client):
    ids = [stored(client) for _ in range(5)]
    assert listed(client) == ids
    assert listed(client, "order=desc") == ids[::-1]
    page = client.get(f"{CHAT}?limit=2&after={ids[1]}").json()
    assert [item["id"] for item in page["data"]] == ids[2:4]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[3], True)
    page = client.get(f"{CHAT}?limit=2&order=desc&after={ids[2]}").json()
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[1::-1], False)


def test_the_list_is_filtered_by_metadata(client):
    first = stored(client, metadata={"task": "sum", "day": "a b"})
    second = stored(client, metadata={"task": "sum"})
    third = stored(client)
    assert listed(client, "metadata[task]=sum") == [first, second]
    assert listed(client, "metadata%5Btask%5D=sum&metadata%5Bday%5D=a%20b") == [first]
    assert listed(client, "metadata[task]=s") == []
    assert listed(client, "metadata=null") == [third]
    answer = client.get(f"{CHAT}?metadata[task]=sum&after={third}")
    error_of(answer, 400, "invalid_value", "after")


def test_the_list_is_filtered_by_any_name_that_a_model_answers_to(client):
    put = {"sku": {"name": "standard", "capacity": 1}, "properties": {"model": {"name": "tiny"}}}
    account = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"
    assert client.put(f"{account}/deployments/prod", json=put).status_code in (200, 201)
    alias, plain = stored(client), stored(client, model="tiny")
    deployed = stored(client, model="prod")
    assert listed(client, "model=gpt-tiny") == [alias]
    assert listed(client, "model=nobody") == []
    assert deployed in listed(client, "model=prod")
    assert plain in listed(client, "model=tiny")


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("limit=0", "integer_below_min_value", "limit"),
        ("limit=101", "integer_above_max_value", "limit"),
        ("order=up", "invalid_value", "order"),
        ("after=chatcmpl-none", "invalid_value", "after"),
        ("metadata=all", "invalid_value", "metadata"),
        ("colour=red", "unknown_parameter", "colour"),
    ],
)
def test_a_bad_query_is_refused_by_name(client, query, code, param):
    error_of(client.get(f"{CHAT}?{query}"), 400, code, param)


def test_metadata_is_replaced_and_null_takes_it_away(client):
    made = stored(client, metadata={"a": "1"})
    answer = change(client, made, {"b": "2", "empty": ""}).json()
    assert answer == client.get(f"{CHAT}/{made}").json()
    assert answer["metadata"] == {"b": "2", "empty": ""}
    assert (listed(client, "metadata[a]=1"), listed(client, "metadata[b]=2")) == ([], [made])
    assert change(client, made, None).json()["metadata"] == {}
    assert listed(client, "metadata=null") == [made]


FULL = {f"{number:064}": "v" * 512 for number in range(16)}


@pytest.mark.parametrize(
    "metadata",
    [
        {**FULL, "one more": ""},
        {"k" * 65: "v"},
        {"k": "v" * 513},
        {"k": 1},
        {"k": None},
        ["k"],
        "k",
    ],
)
def test_metadata_has_openais_limits_at_both_doors(client, metadata):
    made = stored(client)
    for answer in (
        change(client, made, metadata),
        client.post(CHAT, json={"model": "gpt-tiny", "messages": [USER], "metadata": metadata}),
    ):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("metadata")
    assert client.get(f"{CHAT}/{made}").json()["metadata"] == {}


def test_the_largest_metadata_is_kept(client):
    made = stored(client, metadata=FULL)
    assert client.get(f"{CHAT}/{made}").json()["metadata"] == FULL
    assert change(client, made, FULL).status_code == 200


def test_a_change_must_say_the_metadata_and_nothing_else(client):
    path = f"{CHAT}/{stored(client)}"
    error_of(client.post(path, json={}), 400, "missing_required_parameter", "metadata")
    answer = client.post(path, json={"metadata": {}, "model": "m"})
    error_of(answer, 400, "unknown_parameter", "model")


def test_the_messages_are_those_that_were_answered(client):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    made = chat(client, *sent).json()["id"]
    path = f"{CHAT}/{made}/messages"
    page = client.get(path).json()
    plain = {"content_parts": None, "refusal": None, "name": None}
    assert page["data"] == [
        {**plain, "id": f"{made}-0", "role": "system", "content": "Be kind."},
        {
            **plain,
            "id": f"{made}-1",
            "role": "user",
            "content": "hello",
            "content_parts": parts,
            "name": "ann",
        },
        {**plain, "id": f"{made}-2", "role": "assistant", "content": None, "tool_calls": [call]},
        {**plain, "id": f"{made}-3", "role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]
    assert (page["has_more"], page["last_id"]) == (False, f"{made}-3")
    page = client.get(f"{path}?order=desc&limit=2&after={made}-3").json()
    assert [item["id"] for item in page["data"]] == [f"{made}-2", f"{made}-1"]
    assert page["has_more"] is True
    error_of(client.get(f"{path}?after={made}-9"), 400, "invalid_value", "after")


def test_a_deleted_one_is_gone_for_every_call(client):
    made, other = stored(client), stored(client)
    assert client.delete(f"{CHAT}/{made}").json() == {
        "object": "chat.completion.deleted",
        "id": made,
        "deleted": True,
    }
    assert listed(client) == [other]
    for answer in (
        client.get(f"{CHAT}/{made}"),
        client.get(f"{CHAT}/{made}/messages"),
        change(client, made, {}),
        client.delete(f"{CHAT}/{made}"),
    ):
        assert made in error_of(answer, 404, None, "completion_id")


def test_an_expired_one_is_gone_and_swept(client, services):
    made = stored(client)
    kept = services.store.completions.get(made)
    assert kept.expires_at - kept.created_at == 30 * 86400
    old = dataclasses.replace(kept, id="chatcmpl-old", expires_at=int(time.time()) - 1)
    services.store.completions.add(old)
    error_of(client.get(f"{CHAT}/chatcmpl-old"), 404, None, "completion_id")
    assert listed(client) == [made]
    sweep(sweeps_of(services))
    services.store.completions.add(old)  # its id is free again
    assert services.store.completions.remove_expired() == 1


def test_the_setting_says_for_how_long(services):
    changed = dataclasses.replace(services.settings, stored_completion_days=1)
    app = create_app(dataclasses.replace(services, settings=changed))
    with TestClient(app, "http://127.0.0.1:8000") as client:
        kept = services.store.completions.get(stored(client))
    assert kept.expires_at - kept.created_at == 86400


def test_raw_completions_are_not_stored_and_say_so(client):
    for name, value in (("store", True), ("metadata", {"a": "b"})):
        answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "a", name: value})
        error_of(answer, 400, "unknown_parameter", name)


def test_a_broken_database_does_not_fail_an_answer(client, services):
    with closing(sqlite3.connect(services.settings.home / "sintonia.db")) as other:
        other.execute("ALTER TABLE stored_completions RENAME TO elsewhere")
        answer = chat(client)
        assert answer.headers[HEADER] == "server_error"
        assert answer.json()["choices"][0]["message"]["content"]
        assert chat(client, stream=True).text.endswith("data: [DONE]\n\n")
        other.execute("ALTER TABLE elsewhere RENAME TO stored_completions")
    assert listed(client) == []
    assert HEADER not in chat(client).headers


def test_a_busy_database_does_not_hold_up_an_answer(client, services):
    with busy_database(services):
        began = time.monotonic()
        answer = chat(client)
        assert time.monotonic() - began < 5  # a writer waits for ten seconds
        assert answer.headers[HEADER] == "pending"
    wait_until(lambda: listed(client) == [answer.json()["id"]])


def test_no_more_than_so_many_wait_for_the_database(services):
    def completion(number: int) -> StoredCompletion:
        expires_at = int(time.time()) + 60
        return StoredCompletion(f"chatcmpl-{number}", number, expires_at, "m", {}, {})

    async def keep_all() -> list[str]:
        keeper = Keeper(wait_seconds=0.0)
        kept = [await keeper.keep(services.store, completion(n)) for n in range(MOST_WAITING + 2)]
        return [headers[HEADER] for headers in kept]

    with busy_database(services):
        told = asyncio.run(keep_all())
    assert told == ["pending"] * MOST_WAITING + ["overloaded"] * 2
    wait_until(lambda: services.store.completions.count_by_model() == {"m": MOST_WAITING})


def test_a_stream_that_is_left_keeps_nothing_and_ends_its_source():
    ended = []

    async def pieces():
        try:
            yield TextPiece(0, "a")
            yield EndPiece(0, StopReason.STOP, 1)
        finally:
            ended.append(True)

    async def keep(answers) -> None:
        kept.extend(answers)

    async def take(count: int | None) -> None:
        stream, taken = then_keep(pieces(), keep), 0
        async for _ in stream:
            taken += 1
            if taken == count:
                break
        await stream.aclose()

    kept: list = []
    asyncio.run(take(1))
    assert (kept, ended) == ([], [True])
    asyncio.run(take(None))
    assert [answer.text for answer in kept] == ["a"]
