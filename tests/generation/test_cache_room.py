"""Keys and values stay within their bytes, whatever is asked and however many ask."""

from __future__ import annotations

import asyncio

import pytest
import torch
from engine_kit import answer, answers, native_engine, prompt, request, save_base

from sintonia.errors import ContextLengthExceeded
from sintonia.generation.base import FinishReason, TokenChunk
from sintonia.generation.engines.native.cache import BLOCK_TOKENS, SequenceCache
from sintonia.generation.engines.native.residency import Residency, ResidencyLimits
from sintonia.generation.engines.native.scheduler import Scheduler, Ticket

TOKEN_BYTES = 2 * 2 * 2 * 16 * 4
"""Of the tiny model: layers, keys and values, heads, width, bytes of a float."""
ROOM = 3 * BLOCK_TOKENS * TOKEN_BYTES


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases"))


def test_room_is_taken_as_the_sequence_grows_and_not_beyond_its_end():
    cache = SequenceCache(max_tokens=150)
    for total, capacity in ((1, 64), (64, 64), (65, 128), (129, 192), (150, 192)):
        assert cache.capacity_at(total) == capacity
        cache.append(0, total - 1, torch.ones(2, 1, 4), torch.ones(2, 1, 4))
        assert cache.capacity_tokens == capacity
        assert cache.size_bytes == capacity * 2 * 2 * 4 * 4


@torch.inference_mode()
def test_many_that_grow_together_never_hold_more_than_the_limit(base):
    wanted = [request(base, prompt(n), max_tokens=120) for n in range(5)]
    scheduler = limited()
    said: list[list[TokenChunk]] = [[] for _ in wanted]
    for one, chunks in zip(wanted, said, strict=True):
        scheduler.submit(Ticket(one, chunks.append))
    most_bytes = most_running = 0
    while sum(scheduler.counts()):
        scheduler.step()
        held = [running.sequence._cache.size_bytes for running in scheduler._running]
        most_bytes, most_running = max(most_bytes, sum(held)), max(most_running, len(held))
        assert all(running.sequence._cache.size_bytes == 0 for running in scheduler._paused)
    assert most_bytes == ROOM
    assert most_running == 3, "as many as there is room for, not one after the other"

    alone = asyncio.run(unlimited(wanted))
    for chunks, expected in zip(said, alone, strict=True):
        assert [token for chunk in chunks for token in chunk.token_ids] == expected.token_ids
        assert len(expected.token_ids) == 120


def limited() -> Scheduler:
    residency = Residency(ResidencyLimits(), lambda: None)
    return Scheduler(residency, slots=8, queue=8, cache_bytes=ROOM)


async def unlimited(wanted):
    async with native_engine() as engine:
        return await answers(engine, wanted)


def test_a_prompt_that_can_never_fit_is_refused_with_the_limit_and_the_rest_goes_on(base):
    async def run():
        async with native_engine(engine_cache_bytes=ROOM) as engine:
            with pytest.raises(ContextLengthExceeded, match=r"192 tokens.*engine_cache_bytes"):
                await answer(engine, request(base, prompt(1, 192)))
            return await answer(engine, request(base, prompt(1, 190), max_tokens=50))

    last = asyncio.run(run())
    assert (len(last.token_ids), last.finish_reason) == (2, FinishReason.LENGTH)


@torch.inference_mode()
def test_one_that_waits_for_room_is_forgotten_when_its_reader_goes(base):
    scheduler = limited()
    said: list[TokenChunk] = []
    scheduler.submit(Ticket(request(base, prompt(1, 100), max_tokens=90), said.append))
    second = Ticket(request(base, prompt(2, 100)), lambda _: None)
    scheduler.submit(second)
    while not scheduler._paused:
        scheduler.step()
    lease = scheduler._paused[0].sequence.lease
    assert scheduler.counts() == (1, 1)
    second.cancelled = True
    scheduler.step()
    assert scheduler.counts() == (1, 0)
    assert lease._held == [], "its weights are given back"
    while sum(scheduler.counts()):
        scheduler.step()
    assert len(said) == 90
