"""A reader that is slow loses nothing and takes no more at once than a line holds."""

from __future__ import annotations

import asyncio

import pytest

from sintonia.errors import EngineUnavailable
from sintonia.generation.base import FinishReason, TokenChunk, TokenLogprob
from sintonia.generation.mailbox import MOST_TAKEN, Mailbox


def thought(number: int) -> TokenLogprob:
    return TokenLogprob(-float(number), ((number, -0.5),))


def test_what_waits_is_taken_in_order_and_in_bounded_parts():
    of_prompt = tuple(thought(n) for n in range(MOST_TAKEN + 10))
    token_ids = tuple(range(MOST_TAKEN))

    async def run():
        mailbox = Mailbox()
        mailbox.put(TokenChunk(prompt_logprobs=of_prompt))
        for token_id in token_ids:
            mailbox.put(TokenChunk((token_id,), logprobs=(thought(token_id),)))
        mailbox.put(TokenChunk(finish_reason=FinishReason.LENGTH))
        chunks = [await mailbox.take()]
        while chunks[-1].finish_reason is None:
            chunks.append(await mailbox.take())
        return chunks

    chunks = asyncio.run(run())
    assert sum((c.prompt_logprobs for c in chunks), ()) == of_prompt
    assert sum((c.token_ids for c in chunks), ()) == token_ids
    assert sum((c.logprobs for c in chunks), ()) == tuple(map(thought, token_ids))
    assert len(chunks) == 3
    assert not chunks[0].token_ids, "the prompt's come first"


def test_an_end_without_tokens_is_delivered():
    async def run():
        mailbox = Mailbox()
        mailbox.put(TokenChunk(finish_reason=FinishReason.LENGTH))
        return await mailbox.take()

    assert asyncio.run(run()) == TokenChunk((), FinishReason.LENGTH)


def test_an_error_comes_behind_the_tokens_before_it():
    async def run():
        mailbox = Mailbox()
        mailbox.put(TokenChunk((1,)))
        mailbox.put(EngineUnavailable("gone"))
        assert (await mailbox.take()).token_ids == (1,)
        with pytest.raises(EngineUnavailable):
            await mailbox.take()

    asyncio.run(run())
