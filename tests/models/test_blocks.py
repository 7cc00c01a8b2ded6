"""Attention over blocks equals attention under the mask, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sintonia.data.cover import cover
from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.models.attention import ForestOnDevice
from sintonia.models.blocks import Blocks, attend


def deep_forest(seed: int):
    """Rows that share prefixes at many depths."""
    numbers = np.random.default_rng(seed)
    rows = [numbers.integers(0, 50, 40, dtype=np.int32)]
    for _ in range(11):
        stem = rows[int(numbers.integers(len(rows)))]
        stem = stem[: int(numbers.integers(1, len(stem)))]
        tail = numbers.integers(0, 50, int(numbers.integers(1, 30)), dtype=np.int32)
        rows.append(np.concatenate([stem, tail]))
    return build_forest([EncodedSequence(row, 1, 1.0, i) for i, row in enumerate(rows)])


@pytest.mark.parametrize("small_tokens", [1, 8, 64])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_blocks_attend_as_the_mask_does(small_tokens, key_heads):
    forest = deep_forest(small_tokens)
    generator = torch.Generator().manual_seed(0)
    tokens = forest.num_tokens

    def heads(number):
        made = torch.randn(1, tokens, number, 16, generator=generator).transpose(1, 2)
        return made.requires_grad_()

    given = heads(6), heads(key_heads), heads(key_heads)
    towards = torch.randn(1, 6, tokens, 16, generator=generator)
    mask = ForestOnDevice(forest, torch.device("cpu")).mask_TT
    wanted = scaled_dot_product_attention(*given, attn_mask=mask, scale=0.3, enable_gqa=True)
    wanted_grads = torch.autograd.grad(wanted, given, towards)
    blocks = Blocks.of(cover(forest.subtree_end_T, small_tokens))
    found = attend(*given, blocks, 0.3)
    grads = torch.autograd.grad(found, given, towards)
    assert torch.allclose(found, wanted, atol=2e-6)
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        assert torch.allclose(grad, wanted_grad, atol=2e-5)


def test_the_gradient_is_the_same_every_time():
    forest = deep_forest(5)
    generator = torch.Generator().manual_seed(0)
    shape = 1, 4, forest.num_tokens, 16
    given = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    towards = torch.randn(shape, generator=generator)
    blocks = Blocks.of(cover(forest.subtree_end_T, 8))
    first, *others = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(attend(*given, blocks, 1), given, towards)]
        )
        for _ in range(10)
    ]
    assert all(torch.equal(first, other) for other in others)
