"""Answers with their tokens, and the choice of the likeliest, over a real tiny model."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.domain.examples import Message
from sintonia.errors import InvalidRequest
from sintonia.generation.base import FinishReason, ModelRef, TokenChunk, TokenLogprob
from sintonia.generation.engines.native.engine import NativeEngine
from sintonia.serving.answers import (
    ChatRequest,
    CompletionRequest,
    StopReason,
    TextPiece,
    Wishes,
    whole_answers,
)
from sintonia.serving.chat import chat_pieces, plan_chat
from sintonia.serving.completions import completion_pieces, plan_completion
from sintonia.serving.generate import plan
from sintonia.serving.reading import AnswerReader, Asked
from sintonia.serving.router import ServedModel
from sintonia.settings import Settings


@pytest.fixture(scope="module")
def served(tiny_home: Path) -> ServedModel:
    ref = Library(tiny_home, catalog.load()).find("tiny").ref
    weights = ModelRef(ref.folder, ref.sha256)
    return ServedModel("tiny", weights, Renderer.from_folder(Path(ref.folder)))


@pytest.fixture(scope="module")
def model(served):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(served.ref.base_folder).eval()


def with_engine(work):
    """Return what ``work(engine)`` returns."""

    async def run():
        engine = NativeEngine(Settings(threads=1))
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def complete(served, request: CompletionRequest):
    """Return the answers that are made and those that are given."""

    async def work(engine):
        planned = plan_completion("cmpl-1", served, request)
        made = await whole_answers(completion_pieces(engine, planned, request))
        return made, planned.given(made)

    return with_engine(work)


def logprobs_by_hand(model, prompt_ids, token_ids) -> list[float]:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([[*prompt_ids, *token_ids]])).logits[0]
    rows = logits.log_softmax(-1)[len(prompt_ids) - 1 : -1]
    return [float(row[token_id]) for row, token_id in zip(rows, token_ids, strict=True)]


def test_the_likeliest_answers_by_mean_logprob_are_given(served, model):
    wishes = Wishes(n=2, max_tokens=9, best_of=6, seed=4, top_logprobs=1)
    made, given = complete(served, CompletionRequest(("um", "dois três"), wishes=wishes))
    assert [answer.index for answer in made] == list(range(12))
    assert [answer.index for answer in given] == list(range(4))
    for place, prompt in enumerate(("um", "dois três")):
        prompt_ids = served.renderer.completion_prompt(prompt)
        means = {}
        for answer in made[6 * place : 6 * place + 6]:
            ids = [byte_id(served, token.token.bytes) for token in answer.tokens]
            if len(ids) == answer.num_tokens:  # ended by length: all of its tokens show
                mean = sum(logprobs_by_hand(model, prompt_ids, ids)) / len(ids)
                assert math.isclose(answer.mean_logprob, mean, abs_tol=1e-4)
            means[answer.text] = answer.mean_logprob
        best = sorted(means, key=means.__getitem__, reverse=True)[:2]
        assert [answer.text for answer in given[2 * place : 2 * place + 2]] == best


def byte_id(served, value: bytes) -> int:
    """The tiny tokenizer has a token for each byte."""
    assert len(value) == 1
    for token_id in range(256):
        if served.renderer.token_text(token_id).bytes == value:
            return token_id
    raise AssertionError(value)


def test_a_choice_needs_no_tokens_to_be_shown(served):
    wishes = Wishes(n=1, max_tokens=5, best_of=3, seed=1)
    made, (given,) = complete(served, CompletionRequest(("a",), wishes=wishes))
    assert given.mean_logprob == max(answer.mean_logprob for answer in made)
    assert given.tokens == ()


def test_an_echoed_prompt_is_scored_and_its_first_token_is_not(served, model):
    prompt = "Olá 🙂"
    wishes = Wishes(max_tokens=0, top_logprobs=2)
    ((answer,), _) = complete(served, CompletionRequest((prompt,), echo=True, wishes=wishes))
    ids = served.renderer.completion_prompt(prompt)
    assert (answer.text, answer.num_tokens, answer.reason) == (prompt, 0, StopReason.LENGTH)
    assert b"".join(token.token.bytes for token in answer.tokens) == prompt.encode()
    assert answer.tokens[0].logprob is None
    found = [token.logprob for token in answer.tokens[1:]]
    expected = logprobs_by_hand(model, ids[:1], ids[1:])
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(found, expected, strict=True))
    # "Ol", "á" of 2 bytes, a space, the smile of 4.
    assert [token.offset for token in answer.tokens] == [0, 1, 2, 2, 3, 4, 4, 4, 4]


def test_offsets_count_from_the_beginning_of_the_prompt_with_and_without_echo(served):
    wishes = Wishes(max_tokens=6, temperature=0.0, top_logprobs=0)
    ((plain,), _) = complete(served, CompletionRequest(("é um",), wishes=wishes))
    ((echoed,), _) = complete(served, CompletionRequest(("é um",), echo=True, wishes=wishes))
    assert plain.tokens[0].offset == 4
    assert echoed.text == "é um" + plain.text
    assert echoed.tokens[-len(plain.tokens) :] == plain.tokens


def reader(served, **asked) -> AnswerReader:
    request = plan("c", served, [[1, 2]], Wishes(top_logprobs=0), "prompt").requests[0]
    return AnswerReader(Asked(0, request, served.renderer, shows_tokens=True, **asked))


def said(reader: AnswerReader, served, text: str, size: int):
    """Let the engine say ``text`` in chunks of ``size`` tokens; return the pieces."""
    ids = served.renderer.completion_prompt(text)
    pieces = []
    for start in range(0, len(ids), size):
        part = tuple(ids[start : start + size])
        reason = FinishReason.LENGTH if start + size >= len(ids) else None
        thoughts = tuple(TokenLogprob(-float(i)) for i in range(len(part)))
        pieces += reader.read(TokenChunk(part, reason, thoughts))
        if reader.is_over:
            break
    return pieces


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("maçã 🙂 fim", ("fim",), "maçã 🙂 "),
        ("maçã 🙂 fim", ("🙂",), "maçã "),
        ("maçã 🙂 fim", ("ã", "ç"), "ma"),
        ("maçã", ("x",), "maçã"),
        ("maçã", ("m",), ""),
    ],
)
def test_text_and_tokens_agree_up_to_a_stop_string(served, text, stop, shown, size):
    pieces = said(reader(served, stop=stop), served, text, size)
    texts = [piece for piece in pieces if isinstance(piece, TextPiece)]
    assert "".join(piece.text for piece in texts) == shown
    tokens = [token for piece in texts for token in piece.tokens]
    assert b"".join(token.token.bytes for token in tokens) == shown.encode()
    assert [piece.num_tokens for piece in pieces[-1:]] == [
        len((shown + next((s for s in stop if text.startswith(shown + s)), "")).encode())
    ], "what follows the end is not counted, however the engine's tokens were gathered"


def test_pieces_carry_the_tokens_that_their_text_settles(served):
    pieces = said(reader(served), served, "é🙂", 1)
    shown = [(p.text, len(p.tokens)) for p in pieces if isinstance(p, TextPiece)]
    assert shown == [("é", 2), ("🙂", 4)]


def test_the_tokens_of_a_call_are_not_among_those_of_the_text(served):
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    text = f"Vou ver.\n{call}"
    tool = {"type": "function", "function": {"name": "f"}}

    async def work(_):
        from sintonia.generation.engines.echo import EchoEngine

        engine = EchoEngine(slots=1, queue=1)
        wishes = Wishes(max_tokens=len(text) + len("E\nSassistant\n"), top_logprobs=1)
        request = ChatRequest((Message("user", text),), (tool,), wishes=wishes)
        roomy = ServedModel("tiny", served.ref, roomier(served.renderer))
        planned = plan_chat("c", roomy, request)
        return await whole_answers(chat_pieces(engine, planned, request))

    (answer,) = with_engine(work)
    assert [made.name for made in answer.tool_calls] == ["f"]
    shown = b"".join(token.token.bytes for token in answer.tokens).decode()
    assert shown == "Vou ver."
    assert answer.text.startswith(shown)


def roomier(renderer: Renderer) -> Renderer:
    from dataclasses import replace

    return Renderer(replace(renderer.files, context_tokens=4096))


def test_a_bias_on_a_token_that_does_not_exist_is_refused_by_number(served):
    with pytest.raises(InvalidRequest, match=r"'logit_bias': 258. Maximum value is 257") as caught:
        plan("c", served, [[1]], Wishes(logit_bias=((3, 1.0), (258, 1.0))), "prompt")
    assert caught.value.param == "logit_bias"


def test_a_bias_of_100_says_one_thing_only(served):
    token = served.renderer.completion_prompt("z")[0]
    wishes = Wishes(max_tokens=4, logit_bias=((token, 100.0),))
    ((answer,), _) = complete(served, CompletionRequest(("a",), wishes=wishes))
    assert answer.text == "zzzz"
