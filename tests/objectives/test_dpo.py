"""The loss on preferences: by its formula, whatever forest the pairs are in."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.base import sum_by_sequence
from sintonia.objectives.dpo import DirectPreference
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import DpoSettings, LoraSettings

DPO = DirectPreference(DpoSettings(beta=0.3, label_smoothing=0.1))


def pairs(count: int = 6, seed: int = 0) -> list[EncodedSequence]:
    """Pairs of unequal answers, some with a prompt that begins like another's."""
    numbers = np.random.default_rng(seed)
    stem = numbers.integers(0, 256, 12, dtype=np.int32)
    made = []
    for row in range(count):
        own = numbers.integers(0, 256, int(numbers.integers(2, 9)), dtype=np.int32)
        prompt = np.concatenate([stem[: 4 + row % 9], own])
        for place in (0, 1):
            answer = numbers.integers(0, 256, int(numbers.integers(2, 15)), dtype=np.int32)
            tokens = np.concatenate([prompt, answer])
            made.append(EncodedSequence(tokens, len(prompt), 1.0, row, place))
    return made


def score(policy: Policy, sequence: EncodedSequence) -> torch.Tensor:
    """The log-probability of one answer, alone in its forest."""
    tokens = torch.from_numpy(sequence.tokens.astype(np.int64))
    forest = build_forest([sequence])
    assert forest.tokens_T.tolist() == tokens.tolist()
    return policy.score(forest).log_probabilities_N.double().sum()


def with_references(policy: Policy, sequences: list[EncodedSequence]) -> list[EncodedSequence]:
    with torch.no_grad():
        return [dataclasses.replace(s, reference=float(score(policy, s))) for s in sequences]


@pytest.fixture(scope="module")
def policy(tiny_folder) -> Policy:
    """A model with an adapter that does something."""
    model = load_base(tiny_folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=linear_layers(tiny_folder)))
    adapters.reset(model, seed=1)
    move(model, seed=2)
    return Policy(model)


def move(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in adapters.layers(model):
            layer.lora_b.add_(torch.randn(layer.lora_b.shape, generator=generator) * 0.05)


def learned(policy: Policy, forests) -> tuple[float, torch.Tensor]:
    policy.model.zero_grad()
    total = 0.0
    for forest in forests:
        output = DPO.loss(policy, forest)
        output.total.backward()
        total += float(output.total.detach())
    gradients = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return total, torch.cat(gradients)


def by_formula(policy: Policy, sequences: list[EncodedSequence]) -> torch.Tensor:
    """The paper's loss, pair by pair, over separate rows."""
    beta, smoothing = DPO.settings.beta, DPO.settings.label_smoothing
    total = torch.zeros((), dtype=torch.float64)
    for preferred, other in zip(sequences[0::2], sequences[1::2], strict=True):
        chosen = beta * (score(policy, preferred) - preferred.reference)
        rejected = beta * (score(policy, other) - other.reference)
        right = torch.sigmoid(chosen - rejected)
        total = total - (1 - smoothing) * right.log() - smoothing * (1 - right).log()
    return total


def test_before_the_first_step_the_loss_is_that_of_a_coin_whatever_the_start(policy):
    output = DPO.loss(policy, build_forest(with_references(policy, pairs())))
    assert float(output.total.detach()) / output.count == pytest.approx(math.log(2), rel=1e-6)
    assert output.count == 6
    assert output.sums["reward_chosen"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
def test_loss_and_gradient_are_the_formulas_whatever_the_forests_hold(policy, max_tokens):
    sequences = [
        dataclasses.replace(s, reference=s.reference + 3.0 * ((7 * n) % 5 - 2))
        for n, s in enumerate(with_references(policy, pairs()))
    ]
    total, gradient = learned(policy, DPO.batches(sequences, max_tokens))
    policy.model.zero_grad()
    expected = by_formula(policy, sequences)
    expected.backward()
    parameters = [p.grad for p in policy.model.parameters() if p.grad is not None]
    expected_gradient = torch.cat([grad.flatten() for grad in parameters])
    assert total == pytest.approx(float(expected.detach()), rel=1e-6)
    difference = (gradient - expected_gradient).abs().max() / expected_gradient.abs().max()
    assert float(difference) < 1e-5


def test_metrics_are_sums_over_pairs_and_each_row_has_its_loss(policy):
    references = [1.0, -2.0, 0.5, 4.0]
    sequences = [
        dataclasses.replace(s, reference=s.reference + shift)
        for s, shift in zip(with_references(policy, pairs(2)), references, strict=True)
    ]
    shuffled = [sequences[place] for place in (3, 0, 2, 1)]
    output = DPO.loss(policy, build_forest(shuffled))
    rewards = [-0.3 * shift for shift in references]
    margins = [rewards[0] - rewards[1], rewards[2] - rewards[3]]
    expected = {
        "reward_chosen": rewards[0] + rewards[2],
        "reward_rejected": rewards[1] + rewards[3],
        "reward_margin": sum(margins),
        "reward_accuracy": 1.0,
    }
    assert output.sums == pytest.approx(expected, abs=1e-4)
    losses = [math.log(1 + math.exp(-margin)) for margin in margins]
    guided = [0.9 * loss + 0.1 * (loss + m) for loss, m in zip(losses, margins, strict=True)]
    assert output.by_sequence.totals_S == pytest.approx([0, losses[0], losses[1], 0], abs=1e-4)
    assert output.by_sequence.counts_S.tolist() == [0, 1, 1, 0]
    assert output.measured == pytest.approx(sum(losses), abs=1e-4)
    assert float(output.total.detach()) == pytest.approx(sum(guided), abs=1e-4)


def test_sums_of_sequences_repeat_to_the_bit_forwards_and_backwards(policy):
    forest = build_forest(pairs(40))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(forest.targets_N), generator=generator)
    scale = torch.randn(forest.num_sequences, generator=generator, dtype=torch.float64)

    def run() -> tuple[list[float], list[float]]:
        values_N = values.clone().requires_grad_()
        sums_S = sum_by_sequence(values_N, forest)
        (sums_S * scale).sum().backward()
        return sums_S.tolist(), values_N.grad.tolist()

    first = run()
    assert all(run() == first for _ in range(20))
    expected = np.bincount(forest.sequence_of_N, values.double().numpy())
    assert first[0] == pytest.approx(expected.tolist(), rel=1e-12)
