"""The echo engine keeps every promise of an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_kit import Answer, answer, answers, request

from sintonia.errors import EngineUnavailable, InvalidValue, SettingInvalid, TooManyRequests
from sintonia.generation import engines
from sintonia.generation.base import FinishReason, TokenChunk, TokenLogprob
from sintonia.settings import Settings

BASE = Path("anything")


def echo(**settings):
    return engines.create(Settings(engine="echo", **settings))


@pytest.mark.parametrize(
    ("prompt_ids", "max_tokens", "stops", "expected"),
    [
        ((1, 2, 3), 2, (), Answer([2, 3], FinishReason.LENGTH)),
        ((1, 2, 3), 9, (), Answer([1, 2, 3], FinishReason.STOP)),
        ((1, 2, 3, 4), 3, (3,), Answer([2, 3], FinishReason.STOP)),
        ((1, 2, 3), 3, (3,), Answer([1, 2, 3], FinishReason.STOP)),
    ],
)
def test_it_says_the_end_of_the_prompt(prompt_ids, max_tokens, stops, expected):
    wanted = request(BASE, prompt_ids, max_tokens=max_tokens, stop_token_ids=stops)
    assert asyncio.run(answer(echo(), wanted)) == expected


def test_it_serves_at_most_its_slots_and_refuses_beyond_its_queue():
    async def run():
        engine = echo(engine_slots=1, engine_queue=1)
        first = engine.stream(request(BASE, (1, 2, 3)))
        await anext(first)
        second = asyncio.create_task(answer(engine, request(BASE, (4, 5))))
        await asyncio.sleep(0)
        status = await engine.status()
        assert (status.running, status.waiting) == (1, 1)
        with pytest.raises(TooManyRequests):
            await answer(engine, request(BASE, (6,)))
        await first.aclose()
        assert (await second).token_ids == [4, 5]
        assert await answers(engine, [request(BASE, (n,)) for n in range(2)])
        status = await engine.status()
        assert (status.running, status.waiting) == (0, 0)

    asyncio.run(run())


def test_it_refuses_an_empty_prompt_and_no_tokens():
    with pytest.raises(InvalidValue):
        asyncio.run(answer(echo(), request(BASE, ())))
    with pytest.raises(InvalidValue):
        asyncio.run(answer(echo(), request(BASE, (1,), max_tokens=0)))


def test_closing_it_ends_what_runs():
    async def run():
        engine = echo()
        stream = engine.stream(request(BASE, (1, 2, 3)))
        await anext(stream)
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await anext(stream)

    asyncio.run(run())


def test_an_engine_that_nobody_wrote_is_refused_by_name():
    with pytest.raises(SettingInvalid, match="Known are echo, native"):
        engines.create(Settings(engine="magic"))


def test_it_is_sure_of_every_token_that_is_asked_about():
    sure = {"top_logprobs": 1, "prompt_logprobs": True}

    async def chunks(**sampling):
        return [chunk async for chunk in echo().stream(request(BASE, (1, 2, 3), **sampling))]

    thoughts = tuple(TokenLogprob(0.0, ((token, 0.0),)) for token in (2, 3))
    assert asyncio.run(chunks(max_tokens=0, **sure)) == [
        TokenChunk(prompt_logprobs=thoughts),
        TokenChunk(finish_reason=FinishReason.LENGTH),
    ]
    *_, last = asyncio.run(chunks(max_tokens=2, top_logprobs=0))
    assert last == TokenChunk((3,), FinishReason.LENGTH, (TokenLogprob(0.0),))
