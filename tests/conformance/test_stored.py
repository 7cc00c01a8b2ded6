"""Stored chat completions: kept with ``store``, found again, changed, deleted."""

from __future__ import annotations

import time

import pytest

ONE = "/chat/completions/{completion_id}"
_SECONDS = 20


@pytest.fixture(scope="module")
def stored(wire, model) -> list[dict]:
    """Three stored answers, the oldest first."""
    return [
        wire.post(
            "/chat/completions",
            json={
                "model": model,
                "messages": [{"role": "user", "content": f"Say {number}"}],
                "max_tokens": 8,
                "store": True,
                "metadata": {"set": "conformance", "number": str(number)},
            },
        ).json()
        for number in range(3)
    ]


def found(wire, **query) -> list[str]:
    """Return the ids listed, once there are any: real services store with a delay."""
    deadline = time.monotonic() + _SECONDS
    while True:
        ids = [one["id"] for one in wire.pages("/chat/completions", **query)]
        if ids or time.monotonic() > deadline:
            return ids
        time.sleep(0.5)


@pytest.mark.endpoint("GET /chat/completions")
def test_stored_answers_are_listed_oldest_first_and_page_by_page(wire, stored):
    ids = [one["id"] for one in stored]
    query = {"metadata[set]": "conformance", "limit": 2}
    assert [one for one in found(wire, **query) if one in ids] == ids
    newest = found(wire, order="desc", **query)
    assert [one for one in newest if one in ids] == ids[::-1]


@pytest.mark.endpoint("GET /chat/completions")
def test_stored_answers_are_found_by_metadata_and_model(wire, stored):
    query = {"metadata[number]": "1", "metadata[set]": "conformance"}
    assert stored[1]["id"] in found(wire, **query)
    assert stored[0]["id"] not in found(wire, **query)
    assert stored[1]["id"] in found(wire, model=stored[1]["model"], **query)


@pytest.mark.endpoint("GET /chat/completions")
def test_what_matches_nothing_is_an_empty_list(wire):
    listed = wire.get("/chat/completions?metadata[set]=nobody-has-this").json()
    assert listed["data"] == []
    assert listed["has_more"] is False


@pytest.mark.endpoint("GET /chat/completions")
def test_an_answer_without_store_is_not_kept(wire, stored, model):
    body = {"model": model, "messages": [{"role": "user", "content": "Say 9"}], "max_tokens": 4}
    plain = wire.post("/chat/completions", json=body).json()
    assert plain["id"] not in found(wire)


@pytest.mark.endpoint(f"GET {ONE}")
def test_a_stored_answer_is_retrieved_as_it_was(wire, stored):
    found(wire)
    kept = wire.get(f"/chat/completions/{stored[0]['id']}").json()
    assert (
        kept["choices"][0]["message"]["content"] == (stored[0]["choices"][0]["message"]["content"])
    )
    assert kept["metadata"] == {"set": "conformance", "number": "0"}


@pytest.mark.endpoint(f"GET {ONE}/messages")
def test_the_messages_of_the_request_are_listed(wire, stored):
    found(wire)
    listed = list(wire.pages(f"/chat/completions/{stored[0]['id']}/messages"))
    assert [(one["role"], one["content"]) for one in listed] == [("user", "Say 0")]
    assert listed[0]["id"]


@pytest.mark.endpoint(f"GET {ONE}/messages")
def test_every_role_of_a_conversation_is_kept(wire, model):
    call = {"id": "call_1", "type": "function", "function": {"name": "sun", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "c"},
    ]
    body = {"model": model, "messages": messages, "max_tokens": 2, "store": True}
    made = wire.post("/chat/completions", json=body).json()["id"]
    found(wire)
    kept = list(wire.pages(f"/chat/completions/{made}/messages"))
    assert [one["role"] for one in kept] == ["system", "user", "assistant", "tool"]
    assert kept[2]["tool_calls"] == [call]
    assert kept[3]["tool_call_id"] == "call_1"


@pytest.mark.endpoint(f"POST {ONE}")
def test_metadata_is_replaced(wire, stored):
    found(wire)
    path = f"/chat/completions/{stored[2]['id']}"
    assert wire.post(path, json={"metadata": {"set": "other"}}).json()["metadata"] == {
        "set": "other"
    }
    assert wire.get(path).json()["metadata"] == {"set": "other"}


@pytest.mark.endpoint(f"DELETE {ONE}")
def test_a_deleted_answer_is_gone(wire, stored, model):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say 8"}],
        "max_tokens": 4,
        "store": True,
    }
    made = wire.post("/chat/completions", json=body).json()["id"]
    found(wire)
    deleted = wire.delete(f"/chat/completions/{made}").json()
    assert deleted == {"object": "chat.completion.deleted", "id": made, "deleted": True}
    wire.refused("GET", f"/chat/completions/{made}", 404)
