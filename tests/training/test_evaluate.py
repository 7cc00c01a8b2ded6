"""Validation measures without keeping what it computed."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, load_samples
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives import sft
from sintonia.training.evaluate import Evaluation

SMALL = 80
"""So few tokens a forest that the rows need many."""


@pytest.fixture
def samples(planned, tmp_path):
    renderer = Renderer.from_folder(Path(planned.base.folder))
    rules = EncodingRules(planned.context_tokens, truncate=False)
    return load_samples(
        Path(planned.training.path), planned.training.sha256, renderer, rules, tmp_path
    )


def test_validation_needs_no_gradients_and_forgets_each_forests_logits(planned, samples):
    policy = Policy(load_base(Path(planned.base.folder)))
    seen: list[weakref.ref[torch.Tensor]] = []

    def look(_model, _inputs, output):
        assert not torch.is_grad_enabled()
        assert all(logits() is None for logits in seen), "those of the forests before are gone"
        seen.append(weakref.ref(output.logits))

    with policy.model.register_forward_hook(look):
        evaluation = Evaluation(policy, sft.build(planned), max_tokens=SMALL, beat=lambda: None)
        found = evaluation.over(samples, range(samples.num_rows))
    assert len(seen) > 5
    assert all(logits() is None for logits in seen)
    rows = dict(zip(*found.rows.means(), strict=True))
    assert sorted(rows) == list(range(samples.num_rows))
    assert min(rows.values()) < found.loss < max(rows.values())


def test_a_rows_loss_is_that_of_the_row_alone_however_it_was_packed(planned, samples):
    policy = Policy(load_base(Path(planned.base.folder)))
    evaluation = Evaluation(policy, sft.build(planned), max_tokens=2048, beat=lambda: None)
    together = evaluation.over(samples, range(samples.num_rows))
    by_row = dict(zip(*together.rows.means(), strict=True))
    for row in (0, 7, 22):
        alone = evaluation.over(samples, [row])
        assert by_row[row] == pytest.approx(alone.loss, rel=1e-5)
