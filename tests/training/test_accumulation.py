"""However a batch is cut and laid out, a step is the same step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, Forest, build_forest, pack
from sintonia.models import adapters, decoder, products
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
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


def apart(sequences: Sequence[EncodedSequence]) -> list[EncodedSequence]:
    return [dataclasses.replace(sequence, is_apart=True) for sequence in sequences]


CUTS: dict[str, Cut] = {
    "one micro-batch of eight": lambda rows: [build_forest(rows)],
    "eight micro-batches of one": lambda rows: [build_forest([row]) for row in rows],
    "packed, nothing shared": lambda rows: [build_forest(apart(rows))],
    "packed into small forests": lambda rows: list(pack(rows, 50)),
}


def train(folder, cut: Cut, *, is_fused: bool = False) -> tuple[list[float], torch.Tensor]:
    """Return the loss of each step and the adapter at the end."""
    model = load_base(folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=linear_layers(folder)))
    adapters.reset(model, seed=1)
    if is_fused:
        assert decoder.fuse(model)
        products.quicken(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = build_optimizer(trained, OptimizerSettings.usual(1e-2))
    objective, policy, losses = Supervised(), Policy(model), []
    for step in range(STEPS):
        forests = cut(batch(step))
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
    return train(tiny_folder, CUTS["one micro-batch of eight"])


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("name", CUTS)
def test_five_steps_are_the_same_however_a_batch_is_cut(name, is_fused, expected, tiny_folder):
    losses, weights = train(tiny_folder, CUTS[name], is_fused=is_fused)
    assert losses == pytest.approx(expected[0], abs=1e-5)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3)
    assert float((weights - expected[1]).abs().max()) < 1e-3, "Adam divides by small numbers"
