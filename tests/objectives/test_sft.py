"""What guides supervised learning equals torch's own and the papers' formulas, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from sintonia.data.forest import EncodedSequence, pack
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.sft import Supervised
from sintonia.runs.spec import SftSettings


def rows() -> list[EncodedSequence]:
    numbers = np.random.default_rng(3)
    lengths = [(9, 4, 1.0), (12, 7, 0.5), (6, 5, 1.0)]
    return [
        EncodedSequence(numbers.integers(0, 256, n, dtype=np.int32), prompt, weight, row)
        for row, (n, prompt, weight) in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def policy(tiny_folder) -> Policy:
    model = load_base(tiny_folder)
    model.requires_grad_(True)
    return Policy(model)


@pytest.fixture(scope="module")
def plain_model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


def by_torch(model, smoothing: float, z_loss: float) -> torch.Tensor:
    """The loss of each row alone, by torch's cross-entropy."""
    total = torch.zeros(())
    for row in rows():
        tokens = torch.tensor(row.tokens).long()
        learned = slice(row.num_prompt_tokens - 1, len(tokens) - 1)
        logits = model(input_ids=tokens[None]).logits[0][learned]
        targets = tokens[row.num_prompt_tokens :]
        losses = functional.cross_entropy(
            logits, targets, label_smoothing=smoothing, reduction="none"
        )
        losses = losses + z_loss * torch.logsumexp(logits, dim=1) ** 2
        total = total + row.weight * losses.sum()
    return total


def gradients_of(model, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.3, 1e-3)]
)
def test_smoothing_and_z_loss_are_the_formulas(policy, plain_model, smoothing, z_loss):
    objective = Supervised(SftSettings(label_smoothing=smoothing, z_loss=z_loss))
    (forest,) = pack(rows(), 512)
    output = objective.loss(policy, forest)
    expected = by_torch(plain_model, smoothing, z_loss)
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = gradients_of(policy.model, output.total)
    theirs = gradients_of(plain_model, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, atol=1e-5, rtol=1e-4), name


def test_what_is_told_stays_the_plain_loss(policy):
    (forest,) = pack(rows(), 512)
    guided = Supervised(SftSettings(label_smoothing=0.2, z_loss=0.1)).loss(policy, forest)
    plain = Supervised().loss(policy, forest)
    assert guided.total.item() > plain.total.item()
    assert guided.measured == pytest.approx(plain.measured)
    assert plain.measured == pytest.approx(plain.total.item())
    assert guided.by_sequence.totals_S == pytest.approx(plain.by_sequence.totals_S)
