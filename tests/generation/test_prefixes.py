"""Prompts that begin alike are read once, and nobody's answer depends on it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest
import torch
from engine_kit import native_engine, prompt, request, save_adapter, save_base

from sintonia.generation.base import ModelRef, TokenChunk
from sintonia.generation.engines.native.cache import BLOCK_TOKENS, Block
from sintonia.generation.engines.native.prefixes import Prefixes
from sintonia.generation.engines.native.residency import Residency, ResidencyLimits
from sintonia.generation.engines.native.scheduler import Scheduler, Ticket

TOKEN_BYTES = 2 * 2 * 2 * 16 * 4
"""Of the tiny model: layers, keys and values, heads, width, bytes of a float."""
MODEL = ModelRef("base", "a" * 64)
TUNED = ModelRef("base", "a" * 64, "adapter", "b" * 64)


def block() -> Block:
    return Block({0: (torch.zeros(1, BLOCK_TOKENS, 2), torch.zeros(1, BLOCK_TOKENS, 2))})


SIZE = block().size_bytes


def filled(*prompts: tuple[int, ...], model: ModelRef = MODEL) -> tuple[Prefixes, list[Block]]:
    prefixes, blocks = Prefixes(), []
    for one in prompts:
        for place in range(len(one) // BLOCK_TOKENS):
            blocks.append(block())
            prefixes.add(model, one, place, blocks[-1])
    return prefixes, blocks


def test_a_prompt_finds_as_much_of_its_beginning_as_was_read():
    long = prompt(0, 4 * BLOCK_TOKENS)
    prefixes, blocks = filled(long)
    assert prefixes.find(MODEL, (*long, 1)) == blocks
    assert prefixes.find(MODEL, long) == blocks[:3], "the last token has to be computed"
    assert prefixes.find(MODEL, (*long[: 2 * BLOCK_TOKENS + 9], *prompt(1, 200))) == blocks[:2]
    assert prefixes.find(MODEL, (7, *long)) == []
    assert prefixes.find(TUNED, long) == [], "another model's are others"


def test_what_was_used_least_recently_goes_first_and_never_before_what_follows_it():
    stem = prompt(0, 2 * BLOCK_TOKENS)
    left, right = (*stem, *prompt(1, BLOCK_TOKENS)), (*stem, *prompt(2, BLOCK_TOKENS))
    prefixes, _ = filled(left, right)
    assert prefixes.size_bytes == 4 * SIZE
    prefixes.find(MODEL, (*left, 0))
    prefixes.shrink_to(3 * SIZE)
    assert len(prefixes.find(MODEL, (*right, 0))) == 2
    assert len(prefixes.find(MODEL, (*left, 0))) == 3
    prefixes.shrink_to(SIZE)
    assert prefixes.size_bytes == SIZE
    assert len(prefixes.find(MODEL, (*left, 0))) == 1


def test_a_block_whose_beginning_is_gone_is_not_kept():
    prefixes, long = Prefixes(), prompt(0, 3 * BLOCK_TOKENS)
    prefixes.add(MODEL, long, 1, block())
    assert prefixes.size_bytes == 0


def test_what_a_model_left_is_dropped_with_it():
    one, two = prompt(0, BLOCK_TOKENS), prompt(1, 2 * BLOCK_TOKENS)
    prefixes, _ = filled(one)
    for place in range(2):
        prefixes.add(TUNED, two, place, block())
    prefixes.forget("b" * 64)
    assert prefixes.size_bytes == SIZE
    assert prefixes.find(MODEL, (*one, 0))
    prefixes.forget("a" * 64)
    assert prefixes.size_bytes == 0


@dataclass(frozen=True)
class Heard:
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached_tokens: int


async def hear(engine, wanted) -> Heard:
    chunks = [chunk async for chunk in engine.stream(wanted)]
    return Heard(
        tuple(i for chunk in chunks for i in chunk.token_ids),
        tuple(one.logprob for chunk in chunks for one in chunk.logprobs),
        sum(chunk.cached_tokens for chunk in chunks),
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_who_finds_a_prefix_hears_to_the_bit_what_who_reads_it_hears(family, tmp_path):
    base, adapter = save_base(tmp_path, family), save_adapter(tmp_path, 0, family)
    numbers = random.Random(0)
    stems = [prompt(n, 300) for n in range(2)]
    wanted = [
        request(
            base,
            (*stems[n % 2][: numbers.randint(60, 300)], *prompt(n, numbers.randint(1, 90))),
            adapter=adapter if n % 3 == 0 else None,
            max_tokens=6,
            temperature=1.0,
            seed=n,
            top_logprobs=0,
        )
        for n in range(18)
    ]

    async def each_by_itself() -> list[Heard]:
        found = []
        for one in wanted:
            async with native_engine() as engine:
                found.append(await hear(engine, one))
        return found

    async def all_in_one() -> tuple[list[Heard], list[Heard]]:
        async with native_engine() as engine:
            return (
                [await hear(engine, one) for one in wanted],
                list(await asyncio.gather(*(hear(engine, one) for one in wanted))),
            )

    alone = asyncio.run(each_by_itself())
    in_turn, together = asyncio.run(all_in_one())
    assert not any(one.cached_tokens for one in alone)
    assert sum(one.cached_tokens > 0 for one in in_turn) > len(wanted) // 2
    assert all(one.cached_tokens % BLOCK_TOKENS == 0 for one in (*in_turn, *together))
    said = [(one.token_ids, one.logprobs) for one in alone]
    assert [(one.token_ids, one.logprobs) for one in in_turn] == said
    assert [(one.token_ids, one.logprobs) for one in together] == said


def test_a_prompt_that_is_scored_is_computed_whole(tmp_path):
    base, long = save_base(tmp_path), prompt(0, 3 * BLOCK_TOKENS)

    async def run() -> tuple[int, int]:
        async with native_engine() as engine:
            await hear(engine, request(base, long))
            scored = request(base, long, prompt_logprobs=True, top_logprobs=0)
            chunks = [chunk async for chunk in engine.stream(scored)]
            return sum(len(c.prompt_logprobs) for c in chunks), sum(c.cached_tokens for c in chunks)

    assert asyncio.run(run()) == (len(long) - 1, 0)


def test_several_that_come_at_once_read_their_beginning_once(tmp_path):
    base, stem = save_base(tmp_path), prompt(0, 8 * BLOCK_TOKENS - 10)
    wanted = [request(base, (*stem, n), temperature=1.0, seed=n) for n in range(4)]

    async def run() -> list[Heard]:
        async with native_engine() as engine:
            return list(await asyncio.gather(*(hear(engine, one) for one in wanted)))

    cached = sorted(one.cached_tokens for one in asyncio.run(run()))
    assert cached[0] == 0
    assert cached[-1] > 0


@torch.inference_mode()
def test_prefixes_give_way_to_those_who_run(tmp_path):
    base = save_base(tmp_path)
    room = 6 * BLOCK_TOKENS * TOKEN_BYTES
    residency = Residency(ResidencyLimits(), lambda: None)
    scheduler = Scheduler(residency, slots=4, queue=100, cache_bytes=room)
    wanted = [request(base, prompt(n, 150), max_tokens=30) for n in range(8)]
    said: list[list[TokenChunk]] = [[] for _ in wanted]
    for one, chunks in zip(wanted, said, strict=True):
        scheduler.submit(Ticket(one, chunks.append))
    most_kept = 0
    while sum(scheduler.counts()):
        scheduler.step()
        kept = scheduler._prefixes.size_bytes
        held = sum(running.sequence._cache.size_bytes for running in scheduler._running)
        assert kept + held <= room
        most_kept = max(most_kept, kept)
    assert most_kept > 0
    assert all(chunks[-1].finish_reason is not None for chunks in said)
