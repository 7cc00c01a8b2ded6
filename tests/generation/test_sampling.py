"""How the next token is chosen."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sintonia.errors import ServerError
from sintonia.generation.base import SamplingParams
from sintonia.generation.engines.native.adjustment import Adjustment
from sintonia.generation.engines.native.sampling import Sampler, _Cut

CHANCES = (0.5, 0.25, 0.15, 0.07, 0.03)
LOGITS = torch.tensor([math.log(chance) for chance in CHANCES])


def shares(draws: int = 4000, **sampling) -> dict[int, float]:
    sampler = Sampler(SamplingParams(1, seed=3, **sampling))
    counts = Counter(sampler.choose(LOGITS) for _ in range(draws))
    return {token: count / draws for token, count in counts.items()}


def test_tokens_come_as_often_as_the_model_says():
    found = shares()
    assert found.keys() == set(range(5))
    assert all(abs(found[i] - chance) < 0.03 for i, chance in enumerate(CHANCES))


def test_temperature_flattens_and_sharpens():
    assert shares(temperature=2.0)[4] > shares()[4] + 0.03
    assert shares(temperature=0.5)[0] > shares()[0] + 0.1


@pytest.mark.parametrize("temperature", [0.0, 1e-60, 1e-6])
def test_no_temperature_takes_the_likeliest(temperature):
    assert shares(50, temperature=temperature) == {0: 1.0}


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.0, {0}), (0.5, {0}), (0.51, {0, 1}), (0.9, {0, 1, 2}), (0.95, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_it(top_p, kept):
    found = shares(top_p=top_p)
    assert found.keys() == kept
    mass = sum(CHANCES[i] for i in kept)
    assert all(abs(found[i] - CHANCES[i] / mass) < 0.03 for i in kept)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.7}, {0, 1}),  # of 0.9: 0.56 and 0.28 reach it
        ({"top_p": 0.9, "min_p": 0.4}, {0, 1}),
    ],
)
def test_only_what_passes_all_cuts_is_drawn(sampling, kept):
    found = shares(**sampling)
    assert found.keys() == kept
    mass = sum(CHANCES[i] for i in kept)
    assert all(abs(found[i] - CHANCES[i] / mass) < 0.03 for i in kept)


@pytest.mark.parametrize("seed", range(12))
def test_cuts_are_those_of_transformers(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3000, generator=generator) * (1 + seed % 4)
    top_k, top_p, min_p = [(40, 0.9, 0.0), (0, 0.99, 0.0), (0, 1.0, 1e-3), (7, 0.5, 0.3)][seed % 4]
    cut = _Cut(top_k, top_p, min_p)
    found = set(cut.apply(logits.softmax(-1))[1].tolist())
    scores, ids = logits[None], torch.zeros(1, 1, dtype=torch.long)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    scores = TopPLogitsWarper(top_p)(ids, scores)
    scores = MinPLogitsWarper(min_p)(ids, scores)
    assert found == set(torch.nonzero(torch.isfinite(scores[0])).flatten().tolist())


def test_a_repetition_penalty_is_that_of_transformers_and_knows_the_prompt():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    prompt = (3, 7, 7, 20)
    adjustment = Adjustment(SamplingParams(1, repetition_penalty=1.7), prompt)
    adjustment.note(41, 50)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[*prompt, 41]]), logits[None])
    assert torch.equal(adjustment.apply(logits), expected[0])
    assert not torch.equal(adjustment.apply(logits), logits)


def test_top_p_holds_beyond_the_first_sorted_tokens():
    sampler = Sampler(SamplingParams(1, top_p=0.75, seed=1))
    flat = torch.zeros(8000)
    flat[4000:] = -1e9
    found = {sampler.choose(flat) for _ in range(6000)}
    assert max(found) < 4000
    assert 2200 < len(found) <= 3000


def test_a_seed_repeats_and_another_does_not():
    def tokens(seed):
        sampler = Sampler(SamplingParams(1, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(40)]

    assert tokens(5) == tokens(5)
    assert tokens(-5) == tokens(-5)
    assert tokens(2**70) == tokens(2**70)
    assert tokens(5) != tokens(6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(bad):
    with pytest.raises(ServerError, match="not finite"):
        Sampler(SamplingParams(1)).choose(torch.tensor([0.0, bad, 1.0]))
