"""Fused layers answer, learn and keep their files as the model's own modules do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.models import adapters, decoder
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings
from tiny_models import save_tiny

FUSED = ("llama", "mistral", "qwen2")


def forest_of(count: int = 9):
    numbers = np.random.default_rng(0)
    stem = numbers.integers(0, 256, 70, dtype=np.int32)
    tails = [
        numbers.integers(0, 256, int(n), dtype=np.int32) for n in numbers.integers(2, 90, count)
    ]
    rows = [np.concatenate([stem[: 5 + 60 * (n % 2)], tail]) for n, tail in enumerate(tails)]
    return build_forest([EncodedSequence(r, len(r) - 2, 1.0, n) for n, r in enumerate(rows)])


def load(folder, targets):
    model = load_base(folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=targets))
    adapters.reset(model, seed=1)
    with torch.no_grad():
        for number, (_, layer) in enumerate(adapters.layers(model)):
            generator = torch.Generator().manual_seed(number)
            layer.lora_b.copy_(torch.randn(layer.lora_b.shape, generator=generator) * 0.02)
    return model


def learn(model):
    output = Supervised().loss(Policy(model), forest_of())
    (output.total / output.count).backward()
    return float(output.total.detach()), {
        name: p.grad for name, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj", "up_proj")])
def test_fused_layers_have_the_loss_and_gradients_of_the_modules(
    family, targets, tmp_path, tiny_tokenizer_json
):
    save_tiny(family, tmp_path, tiny_tokenizer_json)
    targets = targets or linear_layers(tmp_path)
    wanted_loss, wanted = learn(load(tmp_path, targets))
    model = load(tmp_path, targets)
    assert decoder.fuse(model)
    assert all(layer._merged is None for _, layer in adapters.layers(model))
    loss, found = learn(model)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        assert torch.allclose(grad, wanted[name], atol=1e-6), name


def test_a_step_of_the_optimizer_reaches_the_joined_weights(tmp_path, tiny_tokenizer_json):
    save_tiny("llama", tmp_path, tiny_tokenizer_json)
    plain, fused = (load(tmp_path, linear_layers(tmp_path)) for _ in range(2))
    decoder.fuse(fused)
    losses = []
    for model in (plain, fused):
        learn(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.sub_(0.5 * parameter.grad)
                    parameter.grad = None
        losses.append(learn(model)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_a_window_narrower_than_the_forest_is_deep_goes_through_the_modules(
    tmp_path, tiny_tokenizer_json
):
    save_tiny("mistral", tmp_path, tiny_tokenizer_json)
    plain, fused = (load(tmp_path, linear_layers(tmp_path)) for _ in range(2))
    decoder.fuse(fused)
    for model in (plain, fused):
        for layer in model.model.layers:
            layer.self_attn.config.sliding_window = 20
            layer.self_attn.sliding_window = 20
    assert learn(fused)[0] == pytest.approx(learn(plain)[0], rel=1e-6)


@pytest.mark.parametrize("lora", [LoraSettings(rank=4, targets=("q_proj",), dropout=0.1)])
def test_layers_that_cannot_be_fused_stay_as_they_are(lora, tmp_path, tiny_tokenizer_json):
    save_tiny("llama", tmp_path, tiny_tokenizer_json)
    model = load_base(tmp_path)
    adapters.attach(model, lora)
    assert not decoder.fuse(model)
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_another_family_is_left_alone(tmp_path, tiny_tokenizer_json):
    save_tiny("gpt2", tmp_path, tiny_tokenizer_json)
    assert not decoder.fuse(load(tmp_path, ("c_attn",)))


def test_layers_that_answer_otherwise_are_put_back(tmp_path, tiny_tokenizer_json):
    save_tiny("llama", tmp_path, tiny_tokenizer_json)
    model = load(tmp_path, linear_layers(tmp_path))
    for layer in model.model.layers:
        layer.input_layernorm.forward = lambda x: x
    assert not decoder.fuse(model)
    assert not any("forward" in vars(layer) for layer in model.model.layers)
