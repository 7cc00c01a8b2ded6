"""Scales, starts, dropout and precisions of an adapter."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.errors import InvalidValue
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.lora import LoraLinear
from sintonia.models.policy import Policy
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraInit, LoraSettings
from tiny_models import save_tiny, tiny_model

TOKENS = np.arange(3, 43, dtype=np.int32)


def adapted(folder, **options):
    """Return the model with a fresh adapter, and the adapter's settings."""
    lora = LoraSettings(**{"rank": 4, "alpha": 8.0, "targets": linear_layers(folder), **options})
    model = load_base(folder)
    adapters.attach(model, lora)
    adapters.reset(model, seed=5)
    return model, lora


def scores(model) -> torch.Tensor:
    forest = build_forest([EncodedSequence(TOKENS, 1, 1.0, 0)])
    return Policy(model).score(forest).log_probabilities_N


def learn(model, steps=3):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2)
    for _ in range(steps):
        (-scores(model).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


def layer_of(init, weight, rank=4, alpha=8.0, **options):
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    linear.weight.copy_(weight)
    settings = LoraSettings(rank=rank, alpha=alpha, init=init, **options)
    layer = LoraLinear(linear, settings)
    layer.reset(torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize("init", LoraInit)
def test_every_start_is_the_base_itself(init, tiny_folder):
    base = scores(load_base(tiny_folder)).detach()
    model, _ = adapted(tiny_folder, init=init)
    assert torch.allclose(scores(model), base, atol=1e-5)
    before = [layer.lora_a.clone() for _, layer in adapters.layers(model)]
    adapters.reset(model, seed=5)
    again = [layer.lora_a for _, layer in adapters.layers(model)]
    assert all(map(torch.equal, before, again)), "one seed, one start"


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("init", LoraInit)
def test_what_is_saved_is_a_plain_adapter_over_the_unchanged_base(
    init, use_rslora, tmp_path, tiny_folder
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, lora = adapted(tiny_folder, init=init, use_rslora=use_rslora)
    learn(model)
    ours = scores(model).detach()
    assert (ours - scores(load_base(tiny_folder))).abs().max() > 1e-2
    adapters.save(model, tmp_path, lora, "tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == (8 if init in {LoraInit.PISSA, LoraInit.OLORA} else 4)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    theirs = PeftModel.from_pretrained(base, tmp_path).eval()
    ids = torch.from_numpy(TOKENS.astype(np.int64))[None]
    logits = theirs(input_ids=ids).logits[0, :-1].log_softmax(-1)
    assert torch.allclose(ours, logits.gather(1, ids[0, 1:, None])[:, 0], atol=1e-4)


@pytest.mark.parametrize("init", [LoraInit.PISSA, LoraInit.OLORA, LoraInit.ORTHOGONAL])
def test_what_was_saved_is_put_back_to_the_bit(init, tmp_path, tiny_folder):
    model, lora = adapted(tiny_folder, init=init)
    learn(model)
    adapters.save(model, tmp_path, lora, "tiny")
    other, _ = adapted(tiny_folder, init=init)
    adapters.reset(other, seed=99)
    adapters.load(other, tmp_path)
    for (_, ours), (_, theirs) in zip(adapters.layers(model), adapters.layers(other), strict=True):
        assert all(map(torch.equal, ours.factors(), theirs.factors()))
        assert torch.equal(ours.merged(), theirs.merged())


def test_pissa_begins_with_the_largest_singular_values_and_small_or_large_alike():
    for size in (24, 300):  # exact, and randomized
        torch.manual_seed(0)
        weight = torch.randn(size + 20, 6) @ torch.randn(6, size) + 0.01 * torch.randn(
            size + 20, size
        )
        layer = layer_of(LoraInit.PISSA, weight)
        u, values, vh = torch.linalg.svd(weight, full_matrices=False)
        expected = u[:, :4] * values[:4] @ vh[:4]
        assert torch.allclose(layer.scale * layer.lora_b @ layer.lora_a, expected, atol=1e-2)


def test_olora_begins_with_the_first_rows_of_a_qr_decomposition():
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    layer = layer_of(LoraInit.OLORA, weight)
    assert torch.allclose(layer.lora_b.t() @ layer.lora_b, torch.eye(4), atol=1e-5)
    assert torch.allclose(
        layer.lora_b @ layer.lora_b.t() @ weight, layer.lora_b @ layer.lora_a, atol=1e-4
    )


def test_rslora_scales_by_the_root_of_the_rank():
    weight = torch.zeros(8, 8)
    assert layer_of(LoraInit.KAIMING, weight, rank=16, alpha=32.0).scale == 2.0
    assert layer_of(LoraInit.KAIMING, weight, rank=16, alpha=32.0, use_rslora=True).scale == 8.0


@pytest.mark.parametrize("init", LoraInit)
def test_on_a_rounded_base_a_small_update_is_not_lost(init):
    torch.manual_seed(0)
    weight = torch.randn(32, 32)
    layer = layer_of(init, weight)
    layer.base.to(torch.bfloat16)
    assert not layer.is_merged
    x = torch.randn(50, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        before = layer(x).float()
        change = torch.randn_like(layer.lora_b) * 2e-3
        layer.lora_b += change
    moved = layer(x).float() - before
    wanted = layer.scale * x.float() @ layer.lora_a.t() @ change.t()
    assert torch.nn.functional.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0) > 0.5
    layer(x).float().square().sum().backward()
    assert layer.lora_a.grad.dtype == torch.float32


def test_the_side_product_has_the_gradient_of_the_merged_one():
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(3))
    for init in (LoraInit.ORTHOGONAL, LoraInit.PISSA):
        weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(4))
        merged, side = layer_of(init, weight), layer_of(init, weight, dropout=0.5)
        assert merged.is_merged
        assert not side.is_merged
        for layer in (merged, side):  # no dropout outside of learning
            layer(x).square().sum().backward()
        assert torch.allclose(merged(x), side(x), atol=1e-5)
        assert torch.allclose(merged.lora_a.grad, side.lora_a.grad, atol=1e-3, rtol=1e-4)
        assert torch.allclose(merged.lora_b.grad, side.lora_b.grad, atol=1e-3, rtol=1e-4)


def test_gpt2_transposed_layers_take_every_start(tmp_path, tiny_tokenizer_json):
    save_tiny("gpt2", tmp_path / "base", tiny_tokenizer_json)
    base = scores(load_base(tmp_path / "base")).detach()
    for init in (LoraInit.PISSA, LoraInit.OLORA):
        model, _ = adapted(tmp_path / "base", init=init)
        assert torch.allclose(scores(model), base, atol=1e-5)
    assert tiny_model("gpt2").config.model_type == "gpt2"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank 0"),
        ({"rank": 3, "init": LoraInit.ORTHOGONAL}, "even"),
        ({"alpha": 0.0}, "alpha 0.0"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"rank": -1, "dropout": -0.5}, "rank -1.*dropout -0.5"),
    ],
)
def test_settings_that_make_no_adapter_are_refused_by_name(options, said, tiny_folder):
    lora = dataclasses.replace(LoraSettings(targets=("q_proj",)), **options)
    with pytest.raises(InvalidValue, match=said):
        adapters.attach(load_base(tiny_folder), lora)


@pytest.mark.parametrize("init", [LoraInit.PISSA, LoraInit.OLORA])
def test_a_start_from_the_weight_needs_a_rank_that_all_layers_have(init):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 32))
    adapters.attach(model, LoraSettings(rank=100, alpha=8, targets=("0", "1"), init=init))
    with pytest.raises(InvalidValue, match=r"LoRA rank 100: .* at most 32 directions"):
        adapters.reset(model, seed=0)
