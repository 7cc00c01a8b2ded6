"""Log-probabilities, penalties and bias against a plain computation with transformers."""

from __future__ import annotations

import asyncio
import math
from functools import lru_cache

import pytest
import torch
from engine_kit import (
    MODEL_TOKENS,
    answer,
    answers,
    native_engine,
    prompt,
    request,
    save_adapter,
    save_base,
    tiny_model,
)

from sintonia.errors import ContextLengthExceeded, InvalidValue, ServerError
from sintonia.generation.base import FinishReason, SamplingParams
from sintonia.generation.engines.native.adjustment import Adjustment
from sintonia.generation.engines.native.logprobs import logprobs_of
from sintonia.generation.engines.native.prompt_scores import PromptScores

CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases"))


@lru_cache
def model():
    return tiny_model("llama")


@torch.no_grad()
def log_softmax_after(token_ids) -> torch.Tensor:
    """What the model thinks of every next token of a sequence, [tokens, vocabulary]."""
    return model()(torch.tensor([token_ids])).logits[0].log_softmax(-1)


async def heard(engine, wanted):
    """Return token ids, their log-probabilities and the prompt's, and the reason at the end."""
    token_ids, logprobs, of_prompt, reason = [], [], [], None
    async for chunk in engine.stream(wanted):
        assert not chunk.prompt_logprobs or not token_ids, "those of the prompt come first"
        of_prompt += chunk.prompt_logprobs
        token_ids += chunk.token_ids
        logprobs += chunk.logprobs
        reason = chunk.finish_reason
    return token_ids, logprobs, of_prompt, reason


def heard_together(wanted, **settings):
    async def run():
        async with native_engine(**settings) as engine:
            return await asyncio.gather(*(heard(engine, one) for one in wanted))

    return asyncio.run(run())


def check(found, token_ids, rows):
    """Compare what was told of ``token_ids`` with the rows of log-probabilities before them."""
    assert len(found) == len(token_ids)
    for one, token_id, row in zip(found, token_ids, rows, strict=True):
        assert math.isclose(one.logprob, float(row[token_id]), rel_tol=0, abs_tol=1e-4)
        ids = [likely for likely, _ in one.top]
        values = torch.tensor([value for _, value in one.top])
        expected = row.topk(len(ids))
        torch.testing.assert_close(values, expected.values, **CLOSE)
        torch.testing.assert_close(row[ids], values, **CLOSE)


def test_logprobs_in_a_batch_are_those_of_the_model_whatever_is_sampled(base):
    odd = {"frequency_penalty": 1.5, "presence_penalty": -2.0, "logit_bias": ((7, 90.0),)}
    wanted = [
        request(base, prompt(0, 5), top_logprobs=20, seed=1, temperature=1.0),
        request(base, prompt(1, 300), top_logprobs=0, temperature=0.0),
        request(base, prompt(2, 40), top_logprobs=3, seed=2, temperature=2.0, top_p=0.5),
        request(base, prompt(3, 1), top_logprobs=5, seed=3, temperature=0.7, **odd),
        request(base, prompt(4, 12)),
    ]
    for one, (token_ids, logprobs, of_prompt, _) in zip(
        wanted, heard_together(wanted), strict=True
    ):
        assert not of_prompt
        if one.sampling.top_logprobs is None:
            assert not logprobs
            continue
        rows = log_softmax_after([*one.prompt_ids, *token_ids])[len(one.prompt_ids) - 1 :]
        check(logprobs, token_ids, rows[: len(token_ids)])
        assert {len(found.top) for found in logprobs} == {one.sampling.top_logprobs}


def test_asking_for_logprobs_changes_no_token(base):
    plain = [request(base, prompt(n, 9), seed=n, temperature=1.0) for n in range(3)]
    asked = [request(base, prompt(n, 9), seed=n, temperature=1.0, top_logprobs=2) for n in range(3)]
    tokens = [found[0] for found in heard_together([*plain, *asked])]
    assert tokens[:3] == tokens[3:]


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 600])
def test_every_token_of_a_prompt_but_the_first_is_scored(base, length):
    asked = {"top_logprobs": 2, "prompt_logprobs": True}
    wanted = [
        request(base, prompt(9, length), max_tokens=0, **asked),
        request(base, prompt(9, length), max_tokens=3, **asked),
        request(base, prompt(8, 30), max_tokens=40),
    ]
    only, more, _ = heard_together(wanted)
    rows = log_softmax_after(prompt(9, length))
    for found in (only, more):
        check(found[2], prompt(9, length)[1:], rows[:-1])
    assert (only[0], only[3]) == ([], FinishReason.LENGTH)
    assert len(more[0]) == len(more[1]) == 3


def test_a_prompt_is_scored_through_its_own_adapter(base, tmp_path):
    from peft import PeftModel

    head = save_adapter(tmp_path, 5, target_modules=["q_proj", "lm_head"])
    asked = {"top_logprobs": 1, "prompt_logprobs": True}
    wanted = [
        request(base, prompt(1, 20), adapter=head, max_tokens=0, **asked),
        request(base, prompt(2, 33), max_tokens=0, **asked),
        request(base, prompt(3, 41), adapter=head, max_tokens=2),
        request(base, prompt(4, 17), adapter=head, max_tokens=0, **asked),
    ]
    tuned, plain, _, again = heard_together(wanted)
    oracle = PeftModel.from_pretrained(tiny_model("llama"), head).eval()
    with torch.no_grad():
        for number, length, found in ((1, 20, tuned), (4, 17, again)):
            rows = oracle(torch.tensor([prompt(number, length)])).logits[0].log_softmax(-1)
            check(found[2], prompt(number, length)[1:], rows[:-1])
    check(plain[2], prompt(2, 33)[1:], log_softmax_after(prompt(2, 33))[:-1])


def test_a_prompt_that_fills_the_context_can_be_scored_but_not_continued(base):
    asked = {"top_logprobs": 0, "prompt_logprobs": True}
    (found,) = heard_together([request(base, prompt(1, 1024), max_tokens=0, **asked)])
    assert len(found[2]) == 1023
    with pytest.raises(ContextLengthExceeded):
        heard_together([request(base, prompt(1, 1024), max_tokens=1, **asked)])


def test_who_makes_room_for_others_is_scored_once(base):
    asked = {"top_logprobs": 1, "prompt_logprobs": True, "max_tokens": 60}
    wanted = [request(base, prompt(n, 300), **asked) for n in range(3)]
    # Two layers, two key heads of 16 in float32: 512 bytes a token; room for two of three.
    found = heard_together(wanted, engine_cache_bytes=512 * 64 * 14)
    roomy = heard_together(wanted)
    for (token_ids, logprobs, of_prompt, _), other in zip(found, roomy, strict=True):
        assert token_ids == other[0]
        assert (len(logprobs), len(of_prompt)) == (60, 299)


def test_scores_are_read_once_however_often_a_prompt_is_computed():
    logits = torch.randn(10, 7)
    token_ids = [1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    sampling = SamplingParams(0, top_logprobs=0, prompt_logprobs=True)
    scores, found = PromptScores(token_ids, sampling), []
    for past, count in ((0, 4), (0, 4), (4, 3), (0, 4), (4, 3), (7, 3)):
        if scores.rows_wanted(past, count):
            found += scores.read(logits[past : past + count], past)
    assert found == list(logprobs_of(logits[:9], token_ids[1:], 0))


def test_what_the_model_rules_out_has_no_probability():
    row = torch.tensor([[0.0, -math.inf, 0.0]])
    (found,) = logprobs_of(row, [1], 20)
    assert found.logprob == -math.inf
    assert [value for _, value in found.top][2] == -math.inf
    assert math.isclose(found.top[0][1], math.log(0.5), rel_tol=1e-6)


def greedy_by_hand(prompt_ids, count, *, frequency=0.0, presence=0.0, bias=()):
    """OpenAI's formula, one token of the vocabulary after the other."""
    said: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            logits = model()(torch.tensor([[*prompt_ids, *said]])).logits[0, -1].tolist()
        for token_id in range(MODEL_TOKENS):
            times = said.count(token_id)
            logits[token_id] -= times * frequency + (times > 0) * presence
        for token_id, value in bias:
            logits[token_id] += value
        said.append(max(range(MODEL_TOKENS), key=logits.__getitem__))
    return said


def test_penalties_and_bias_are_exact_in_any_company(base):
    cases = [
        {},
        {"frequency": 2.0},
        {"presence": 2.0},
        {"frequency": 0.3, "presence": -0.4},
        {"frequency": -2.0, "presence": -2.0},
        {"bias": ((3, 100.0),)},
        {"frequency": 2.0, "bias": ((3, 9.0), (200, 8.5), (77, -100.0))},
    ]
    wanted = [
        request(
            base,
            prompt(n, 3 + 7 * n),
            max_tokens=24,
            frequency_penalty=case.get("frequency", 0.0),
            presence_penalty=case.get("presence", 0.0),
            logit_bias=case.get("bias", ()),
        )
        for n, case in enumerate(cases)
    ]

    async def run():
        async with native_engine() as engine:
            return await answers(engine, wanted)

    found = [one.token_ids for one in asyncio.run(run())]
    by_hand = [greedy_by_hand(prompt(n, 3 + 7 * n), 24, **case) for n, case in enumerate(cases)]
    assert found == by_hand
    assert found[5] == [3] * 24
    plain = [greedy_by_hand(prompt(n, 3 + 7 * n), 24) for n in range(len(cases))]
    assert [n for n in range(len(cases)) if plain[n] != found[n]] != [], "penalties change answers"


def test_an_unknown_token_in_a_bias_is_refused(base):
    with pytest.raises(InvalidValue, match="Token 258 of logit_bias: must be from 0 to 257"):
        heard_together([request(base, prompt(1), logit_bias=((258, 1.0),))])


def test_a_request_that_asks_for_no_adjustment_holds_and_computes_nothing():
    logits = torch.randn(5)
    plain = Adjustment(SamplingParams(1))
    plain.note(2, 5)
    assert plain.apply(logits) is logits
    penal = Adjustment(SamplingParams(1, presence_penalty=1.0))
    assert penal.apply(logits) is logits, "nothing was said yet"
    penal.note(2, 5)
    assert torch.equal(penal.apply(logits), logits - torch.tensor([0, 0, 1.0, 0, 0]))


def test_scores_that_are_no_numbers_are_an_error():
    scores = PromptScores([1, 2], SamplingParams(0, top_logprobs=0, prompt_logprobs=True))
    with pytest.raises(ServerError, match="not finite"):
        scores.read(torch.full((2, 3), math.nan), 0)


def test_a_prompt_is_scored_only_with_a_number_of_logprobs(base):
    async def run():
        async with native_engine() as engine:
            await answer(engine, request(base, prompt(1), prompt_logprobs=True))

    with pytest.raises(InvalidValue, match="needs top_logprobs"):
        asyncio.run(run())
