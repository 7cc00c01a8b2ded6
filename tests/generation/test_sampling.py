"""How the next token is chosen."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from sintonia.errors import ServerError
from sintonia.generation.base import SamplingParams
from sintonia.generation.engines.native.sampling import Sampler

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
