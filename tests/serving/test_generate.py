"""Many answers at once over one engine, and what happens when nobody listens any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.examples import Message
from sintonia.errors import ContextLengthExceeded, TooManyRequests
from sintonia.generation.base import ModelRef
from sintonia.generation.engines.echo import EchoEngine
from sintonia.serving.answers import (
    ChatRequest,
    CompletionRequest,
    EndPiece,
    StopReason,
    TextPiece,
    Wishes,
    whole_answers,
)
from sintonia.serving.chat import chat_pieces, plan_chat
from sintonia.serving.completions import completion_pieces, plan_completion
from sintonia.serving.generate import plan
from sintonia.serving.router import ServedModel


@pytest.fixture(scope="module")
def served(tiny_home: Path) -> ServedModel:
    ref = Library(tiny_home, catalog.load()).find("tiny").ref
    weights = ModelRef(ref.folder, ref.sha256)
    return ServedModel("tiny", weights, Renderer.from_folder(Path(ref.folder)))


def request_for(*prompts: str, **wishes) -> CompletionRequest:
    return CompletionRequest(prompts, wishes=Wishes(**{"max_tokens": 400, **wishes}))


def pieces_of(engine: EchoEngine, served: ServedModel, request: CompletionRequest):
    return completion_pieces(engine, plan_completion("cmpl-1", served, request), request)


def test_answers_of_many_prompts_interleave_and_keep_their_place(served):
    async def run():
        engine = EchoEngine(slots=4, queue=4)
        request = request_for("first", "second", n=2)
        pieces = [piece async for piece in pieces_of(engine, served, request)]
        order = [piece.index for piece in pieces if isinstance(piece, TextPiece)]
        assert order[:4] == [0, 1, 2, 3], "all four are worked on at once"
        return await whole_answers(pieces_of(engine, served, request))

    answers = asyncio.run(run())
    assert [answer.text for answer in answers] == ["first", "first", "second", "second"]
    assert {answer.reason for answer in answers} == {StopReason.STOP}


def test_closing_the_pieces_frees_every_slot(served):
    async def run():
        engine = EchoEngine(slots=4, queue=4)
        pieces = pieces_of(engine, served, request_for("x" * 100, n=4))
        await anext(pieces)
        assert (await engine.status()).running == 4
        await pieces.aclose()
        return await engine.status()

    assert asyncio.run(run()).running == 0


def test_cancelling_the_reader_frees_every_slot(served):
    async def run():
        engine = EchoEngine(slots=2, queue=0)
        pieces = pieces_of(engine, served, request_for("x" * 100, n=2))
        reading = asyncio.create_task(whole_answers(pieces))
        while not (await engine.status()).running:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return await engine.status()

    assert asyncio.run(run()).running == 0


def test_one_answer_that_fails_ends_the_others(served):
    async def run():
        engine = EchoEngine(slots=1, queue=0)
        with pytest.raises(TooManyRequests):
            await whole_answers(pieces_of(engine, served, request_for("x" * 100, n=2)))
        return await engine.status()

    assert asyncio.run(run()).running == 0


def test_a_stop_string_ends_the_engines_work(served):
    async def run():
        engine = EchoEngine(slots=1, queue=0)
        pieces = pieces_of(engine, served, request_for("ab" + "x" * 100, stop=("b",)))
        return [piece async for piece in pieces], await engine.status()

    pieces, status = asyncio.run(run())
    assert pieces == [TextPiece(0, "a"), EndPiece(0, StopReason.STOP, 2)]
    assert status.running == 0


def test_every_answer_of_a_seed_has_a_seed_of_its_own(served):
    requests = plan("cmpl-1", served, [[1, 2]], Wishes(n=3, seed=2**63 - 1), "prompt").requests
    assert [request.sampling.seed for request in requests] == [2**63 - 1, 0, 1]
    assert len({request.id for request in requests}) == 3


def test_an_answer_may_be_as_long_as_the_context_has_room(served):
    messages = (Message("user", "hello"),)
    request = plan_chat("chatcmpl-1", served, ChatRequest(messages)).requests[0]
    room = served.renderer.context_tokens - len(request.prompt_ids)
    assert request.sampling.max_tokens == room
    assert request.sampling.stop_token_ids == served.renderer.stop_token_ids
    fits = ChatRequest(messages, wishes=Wishes(max_tokens=room))
    assert plan_chat("chatcmpl-1", served, fits).requests
    with pytest.raises(ContextLengthExceeded, match=f"{room + 1} in the completion"):
        plan_chat("chatcmpl-1", served, ChatRequest(messages, wishes=Wishes(max_tokens=room + 1)))


def test_pieces_that_nobody_began_need_no_engine(served):
    async def run():
        engine = EchoEngine(slots=1, queue=0)
        messages = (Message("user", "hello"),)
        request = ChatRequest(messages)
        await chat_pieces(engine, plan_chat("c", served, request), request).aclose()
        return await engine.status()

    assert asyncio.run(run()).running == 0
