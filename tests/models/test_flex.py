"""FlexAttention over a forest's tiles equals the dense mask and separate rows.

Its kernels need a GPU. Here the same block mask and score functions go through the definition
that torch keeps beside them, which has a gradient, and through ``torch.compile`` up to the kernel.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._higher_order_ops.flex_attention import math_attention
from torch.nn.attention.flex_attention import AuxOutput, flex_attention

from sintonia.data.forest import EncodedSequence, Forest, build_forest
from sintonia.models import flex
from sintonia.models.attention import ForestOnDevice
from sintonia.models.load import load_base
from sintonia.models.scores import Scores
from tiny_models import save_tiny

CPU = torch.device("cpu")
FAMILIES = ("llama", "qwen3", "gemma2", "gemma3", "gpt_oss", "mistral")


def defined(query, key, value, **how):
    """Return what FlexAttention is defined as, with its gradient."""
    given = how["block_mask"].as_tuple()
    modify = how["score_mod"] or (lambda score, *_: score)
    out, lse, _ = math_attention(query, key, value, modify, given, how["scale"], {})
    return out, AuxOutput(lse=lse * math.log(2) if how["return_aux"].lse else None)


def forest_of(seed: int, number: int) -> Forest:
    """Rows that share prefixes at many depths, over several tiles, one of them seen whole."""
    numbers = np.random.default_rng(seed)
    stem = numbers.integers(0, 256, 2 * flex.TILE + 10, dtype=np.int32)
    rows = []
    for row in range(number):
        start = stem[: len(stem) if row % 2 else int(numbers.integers(flex.TILE, len(stem)))]
        tail = numbers.integers(0, 256, int(numbers.integers(3, 60)), dtype=np.int32)
        rows.append(EncodedSequence(np.concatenate([start, tail]), len(start), 1.0, row))
    return build_forest(rows)


def projected(forest: Forest, heads: int = 4, key_heads: int = 2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, n, forest.num_tokens, 16) for n in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("window", [None, 40, 200])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_tiles_attend_as_the_mask_does(window, softcap, has_sinks):
    forest = forest_of(0, 8).filled_to(flex.TILE)
    pattern = ForestOnDevice(forest, CPU, flex=defined)
    sinks_H = torch.tensor([0.3, -1.0, 2.0, 0.0], requires_grad=True) if has_sinks else None
    scores = Scores(0.25, softcap, sinks_H)
    given = projected(forest)
    learned = [*given, *([sinks_H] if has_sinks else [])]
    found = flex.attend(defined, *given, scores, pattern.block_mask(window))
    wanted = scores.attend(*given, pattern.within(window))
    towards = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(found, wanted, atol=1e-6)
    grads = torch.autograd.grad(found, learned, towards)
    for grad, expected in zip(grads, torch.autograd.grad(wanted, learned, towards), strict=True):
        assert torch.allclose(grad, expected, atol=2e-5)


def test_the_block_mask_is_the_pattern():
    forest = forest_of(1, 9).filled_to(flex.TILE)
    pattern = ForestOnDevice(forest, CPU, flex=defined)
    place = torch.arange(forest.num_tokens)
    for window in (None, 50):
        mask = pattern.block_mask(window)
        seen = mask.mask_mod(None, None, place[:, None], place)
        assert torch.equal(seen, pattern.within(window))
        assert mask.shape == (1, 1, forest.num_tokens, forest.num_tokens)
        assert pattern.block_mask(window) is mask, "made once"
    assert pattern.block_mask(None).full_kv_num_blocks.sum() > 0
    assert pattern.block_mask(10**6) is pattern.block_mask(None), "a wide window narrows nothing"


def answer(model, forest: Forest, run):
    """Return the logits of the targets and the gradient of a loss to every weight."""
    pattern = ForestOnDevice(forest.filled_to(flex.TILE) if run else forest, CPU, flex=run)
    model.zero_grad()
    logits = model(
        input_ids=pattern.tokens_T[None],
        position_ids=pattern.positions_T[None],
        use_cache=False,
        forest=pattern,
    ).logits[0]
    assert pattern.calls == 2, "once a layer"
    found = logits[torch.from_numpy(forest.predict_from_N)]
    (found.square().mean()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return found.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_answers_and_learns_through_tiles_as_through_the_mask(
    family, tmp_path, tiny_tokenizer_json
):
    save_tiny(family, tmp_path / "model", tiny_tokenizer_json)
    model = load_base(tmp_path / "model")
    forest = forest_of(2, 6)
    found, gradient = answer(model, forest, defined)
    expected, expected_gradient = answer(model, forest, None)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forest_through_tiles_equals_its_separate_rows(family, tmp_path, tiny_tokenizer_json):
    save_tiny(family, tmp_path / "model", tiny_tokenizer_json)
    model = load_base(tmp_path / "model")
    numbers = np.random.default_rng(3)
    stem = numbers.integers(0, 256, 150, dtype=np.int32)
    tails = [numbers.integers(0, 256, n, dtype=np.int32) for n in (4, 30, 17)]
    rows = [EncodedSequence(np.append(stem, t), 100, 1.0, n) for n, t in enumerate(tails)]
    forest = build_forest(rows)
    together, _ = answer(model, forest, defined)
    for number, row in enumerate(rows):
        alone, _ = answer(model, build_forest([row]), None)
        of_row = torch.from_numpy(forest.sequence_of_N == number)
        assert torch.allclose(together[of_row], alone, atol=1e-6)


@torch.no_grad()
def test_forests_of_other_sizes_compile_no_further_kernels():
    counter = CompileCounter()
    run = torch.compile(flex_attention, backend=counter, recompile_limit=64)
    made = []
    for number in (1, 6, 3, 12, 20, 30):
        forest = forest_of(number, number).filled_to(flex.TILE)
        pattern = ForestOnDevice(forest, CPU)
        given = [part.detach() for part in projected(forest)]
        for window, scores in ((None, Scores(0.25)), (40, Scores(0.25, 2.0))):
            found = flex.attend(run, *given, scores, pattern.block_mask(window))
            assert torch.allclose(found, scores.attend(*given, pattern.within(window)), atol=1e-6)
        made.append(counter.frame_count)
    assert made[-1] == made[1] <= 4


def test_a_processor_has_no_use_for_it():
    assert flex.flex_on("cpu") == flex.Flex(None)
    forest = forest_of(0, 2)
    assert ForestOnDevice.of(forest, CPU).forest is forest
