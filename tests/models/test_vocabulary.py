"""Scores of targets and their gradients, against torch's own."""

from __future__ import annotations

import torch

from sintonia.models.vocabulary import score_targets


def test_scores_and_gradients_are_those_of_plain_operations():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=generator, dtype=torch.float64).requires_grad_()
    which = torch.tensor([0, 1, 1, 1, 4, 3, 2])
    targets = torch.tensor([3, 0, 0, 10, 5, 6, 7])
    weights = torch.randn(3, 7, generator=generator, dtype=torch.float64)

    normalizer = logits.logsumexp(1)[which]
    wanted = (logits[which, targets], normalizer, logits.mean(1)[which])
    sum(w @ part for w, part in zip(weights, wanted, strict=True)).backward()
    wanted_grad, logits.grad = logits.grad, None

    found = score_targets(logits * 1, which, targets)
    parts = (found.chosen_N, found.normalizer_N, found.mean_N)
    for part, value in zip(parts, wanted, strict=True):
        assert torch.allclose(part, value)
    assert found.is_likeliest_N.tolist() == (logits.argmax(1)[which] == targets).tolist()
    sum(w @ part for w, part in zip(weights, parts, strict=True)).backward()
    assert torch.allclose(logits.grad, wanted_grad)


def test_what_is_not_asked_of_the_logits_has_no_part_in_the_gradient():
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    which, targets = torch.tensor([0, 1]), torch.tensor([2, 3])
    score_targets(logits * 1, which, targets).chosen_N.sum().backward()
    wanted = torch.zeros(2, 5, dtype=torch.float64)
    wanted[which, targets] = 1
    assert torch.equal(logits.grad, wanted)
