"""However a batch is cut and laid out, a step is the same step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, Forest, build_forest, pack_rows
from sintonia.models import adapters, decoder, products
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.base import Objective, sum_by_sequence
from sintonia.objectives.dpo import DirectPreference
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings, OptimizerSettings
from sintonia.training.optimizer import build_optimizer, clip

STEPS, ROWS = 5, 8
Cut = Callable[[Sequence[EncodedSequence]], list[Forest]]


def batch(step: int) -> list[EncodedSequence]:
    """Rows that begin alike, with 1 to 29 learned tokens."""
    numbers = np.random.default_rng(step)
    stem = numbers.integers(0, 256, 12, dtype=np.int32)
    lengths = [1, 29, *numbers.integers(2, 20, ROWS - 2)]
    return [
        EncodedSequence(
            np.concatenate([stem, numbers.integers(0, 256, n, dtype=np.int32)]), 12, 1.0, row
        )
        for row, n in enumerate(lengths)
    ]


def pairs(step: int) -> list[EncodedSequence]:
    """Four rows of two answers each, to prompts that begin alike."""
    return [
        dataclasses.replace(sequence, row=number // 2, place=number % 2)
        for number, sequence in enumerate(batch(step))
    ]


def by_row(sequences: Sequence[EncodedSequence]) -> list[list[EncodedSequence]]:
    """One row's sequences in each: an answer, or a pair."""
    rows = sorted({sequence.row for sequence in sequences})
    return [[s for s in sequences if s.row == row] for row in rows]


def apart(sequences: Sequence[EncodedSequence]) -> list[EncodedSequence]:
    return [dataclasses.replace(sequence, is_apart=True) for sequence in sequences]


CUTS: dict[str, Cut] = {
    "one micro-batch": lambda sequences: [build_forest(sequences)],
    "a micro-batch for each row": lambda sequences: [build_forest(r) for r in by_row(sequences)],
    "packed, nothing shared": lambda sequences: [build_forest(apart(sequences))],
    "packed into small forests": lambda sequences: list(pack_rows(sequences, 60)),
}
METHODS: dict[str, tuple[Objective, Callable[[int], list[EncodedSequence]]]] = {
    "sft": (Supervised(), batch),
    "dpo": (DirectPreference(), pairs),
}


@torch.no_grad()
def as_it_began(policy: Policy, sequence: EncodedSequence) -> EncodedSequence:
    """What preferences compare with; the other objective does not look at it."""
    forest = build_forest([sequence])
    scores_S = sum_by_sequence(policy.score(forest).log_probabilities_N, forest)
    return dataclasses.replace(sequence, reference=float(scores_S))


def train(
    folder, method: str, cut: Cut, *, is_fused: bool = False
) -> tuple[list[float], torch.Tensor]:
    """Return the loss of each step and the adapter at the end."""
    model = load_base(folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=linear_layers(folder)))
    adapters.reset(model, seed=1)
    if is_fused:
        assert decoder.fuse(model)
        products.quicken(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = build_optimizer(trained, OptimizerSettings.usual(1e-2))
    objective, rows_of = METHODS[method]
    policy, losses = Policy(model), []
    batches = [[as_it_began(policy, s) for s in rows_of(step)] for step in range(STEPS)]
    for rows in batches:
        forests = cut(rows)
        count = sum(objective.count(forest) for forest in forests)
        total = 0.0
        for forest in forests:
            output = objective.loss(policy, forest)
            (output.total / count).backward()
            total += float(output.total.detach())
        clip([p for _, p in trained], 1.0)
        optimizer.step(1e-2)
        losses.append(total / count)
    return losses, torch.cat([p.detach().flatten() for _, p in trained])


@pytest.fixture(scope="module")
def expected(tiny_folder):
    return {method: train(tiny_folder, method, CUTS["one micro-batch"]) for method in METHODS}


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cut", CUTS)
def test_five_steps_are_the_same_however_a_batch_is_cut(
    cut, method, is_fused, expected, tiny_folder
):
    losses, weights = train(tiny_folder, method, CUTS[cut], is_fused=is_fused)
    assert losses == pytest.approx(expected[method][0], abs=1e-5)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3)
    difference = float((weights - expected[method][1]).abs().max())
    assert difference < 1e-3, "Adam divides by small numbers"
