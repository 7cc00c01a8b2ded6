"""Headers of rate limits: what bounds there are, and when to come back."""

from __future__ import annotations

import asyncio

from sintonia.api.errors import error_response
from sintonia.api.limits import limit_headers
from sintonia.errors import TooManyRequests
from sintonia.generation.base import GenerationRequest, ModelRef, SamplingParams

ROOM = 2 + 2
"""Slots and queue of the engine that these tests have."""


def test_answers_of_the_engine_tell_its_room(client):
    answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "abc"})
    limits = {n: v for n, v in answer.headers.items() if n.startswith("x-ratelimit")}
    assert limits == {
        "x-ratelimit-limit-requests": str(ROOM),
        "x-ratelimit-remaining-requests": str(ROOM),
    }
    refused = client.post("/v1/chat/completions", json={})
    assert refused.headers["x-ratelimit-limit-requests"] == str(ROOM)


def test_what_has_no_bound_tells_none(client):
    for path in ("/v1/models", "/v1/files"):
        assert not [n for n in client.get(path).headers if n.startswith("x-ratelimit")]


def test_requests_that_are_under_way_take_room(services):
    ref = ModelRef(base_folder="b", base_sha256="b" * 64)
    sampling = SamplingParams(max_tokens=9)
    request = GenerationRequest("call", ref, (1, 2, 3, 4), sampling)

    async def room_while_running() -> str:
        stream = services.engine.stream(request)
        await anext(stream)
        room = limit_headers(services)["x-ratelimit-remaining-requests"]
        await stream.aclose()
        return room

    assert asyncio.run(room_while_running()) == str(ROOM - 1)
    assert limit_headers(services)["x-ratelimit-remaining-requests"] == str(ROOM)


def test_a_full_queue_says_when_to_come_back_in_seconds_and_milliseconds():
    headers = error_response(TooManyRequests("Full.")).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000")


def test_a_project_is_named_back_and_nothing_else(client):
    sent = {"openai-project": "proj_a1", "x-client-request-id": "mine", "openai-organization": "o"}
    headers = client.get("/v1/models", headers=sent).headers
    assert headers["openai-project"] == "proj_a1"
    assert headers["openai-organization"] == "personal"
    assert "x-client-request-id" not in headers
    assert "openai-project" not in client.get("/v1/models").headers
    strange = client.get("/v1/models", headers={"openai-project": "a b; c"}).headers
    assert "openai-project" not in strange
