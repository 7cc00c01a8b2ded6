from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from sintonia import plugins
from sintonia.domain.choices import OPTIMIZER_DEFAULTS, OptimizerName
from sintonia.runs.spec import OptimizerSettings
from sintonia.training import optimizers
from sintonia.training.optimizer import build_optimizer
from tiny_models import tiny_model

RATES = [0.01, 0.02, 0.015, 0.01, 0.005, 0.001]


def settings_of(name: OptimizerName, **values) -> OptimizerSettings:
    return dataclasses.replace(OptimizerSettings.usual(0.01, name), **values)


def parameters(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    """A matrix, a vector, a head: each optimizer treats some of them differently."""
    source = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (6, 4), "layer.bias": (6,), "lm_head.weight": (5, 4)}
    return [(n, nn.Parameter(torch.randn(s, generator=source))) for n, s in shapes.items()]


def learn(optimizer, named, steps: range) -> None:
    for step in steps:
        source = torch.Generator().manual_seed(step)
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=source)
        optimizer.step(RATES[step])


def test_the_folder_holds_every_optimizer_that_can_be_chosen():
    assert plugins.names(optimizers) == tuple(sorted(OptimizerName))
    assert set(OPTIMIZER_DEFAULTS) == set(OptimizerName)


@pytest.mark.parametrize("name", list(OptimizerName))
def test_an_optimizer_goes_on_from_its_saved_state_to_the_bit(name):
    settings = settings_of(name, weight_decay=0.1)
    straight = parameters()
    optimizer = build_optimizer(straight, settings)
    learn(optimizer, straight, range(3))
    saved = {key: tensor.clone() for key, tensor in optimizer.state_tensors().items()}
    resumed = [(n, nn.Parameter(p.detach().clone())) for n, p in straight]
    learn(optimizer, straight, range(3, 6))
    successor = build_optimizer(resumed, settings)
    successor.load_state_tensors(saved)
    learn(successor, resumed, range(3, 6))
    for (_, ours), (_, theirs) in zip(resumed, straight, strict=True):
        assert torch.equal(ours, theirs)
    assert successor.state_tensors().keys() == optimizer.state_tensors().keys()


@pytest.mark.parametrize("name", list(OptimizerName))
def test_state_is_named_after_its_parameter(name):
    named = parameters()
    optimizer = build_optimizer(named, settings_of(name))
    assert optimizer.state_tensors() == {}
    learn(optimizer, named, range(1))
    owners = {key.rpartition(".")[0] for key in optimizer.state_tensors()}
    assert owners == {parameter for parameter, _ in named}


@pytest.mark.parametrize("name", list(OptimizerName))
def test_matrices_decay_and_vectors_do_not(name):
    plain, decayed = parameters(), parameters()
    for named, decay in ((plain, 0.0), (decayed, 0.1)):
        learn(build_optimizer(named, settings_of(name, weight_decay=decay)), named, range(1))
    differs = {n: not torch.equal(p, q) for (n, p), (_, q) in zip(plain, decayed, strict=True)}
    assert differs == {"layer.weight": True, "layer.bias": False, "lm_head.weight": True}


@pytest.mark.parametrize("name", list(OptimizerName))
def test_a_tiny_model_learns_a_batch(name):
    model = tiny_model("llama")
    tokens = torch.arange(48).reshape(2, 24)
    rate = 0.1 if name is OptimizerName.SGD else 0.003
    named = list(model.named_parameters())
    optimizer = build_optimizer(named, settings_of(name))
    losses = []
    for _ in range(8):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step(rate)
        losses.append(float(loss.detach()))
        assert all(parameter.grad is None for _, parameter in named)
    assert losses[-1] < 0.9 * losses[0], losses


def test_lion_moves_by_the_sign_of_its_interpolated_momentum():
    named = parameters()
    start = [p.detach().clone() for _, p in named]
    optimizer = build_optimizer(named, settings_of(OptimizerName.LION))
    momenta = [torch.zeros_like(p) for p in start]
    for step in range(3):
        learn(optimizer, named, range(step, step + 1))
        source = torch.Generator().manual_seed(step)
        for number, weights in enumerate(start):
            gradient = torch.randn(weights.shape, generator=source)
            update = torch.sign(0.9 * momenta[number] + 0.1 * gradient)
            weights.sub_(RATES[step] * update)
            momenta[number] = 0.99 * momenta[number] + 0.01 * gradient
    for (_, ours), expected in zip(named, start, strict=True):
        assert torch.allclose(ours, expected)


def test_adamw_in_one_kernel_is_torchs_plain_loop():
    fused, plain = parameters(), parameters()
    learn(build_optimizer(fused, settings_of(OptimizerName.ADAMW)), fused, range(6))
    loop = torch.optim.AdamW([p for _, p in plain], weight_decay=0.0, fused=False, foreach=False)
    for step in range(6):
        source = torch.Generator().manual_seed(step)
        for _, parameter in plain:
            parameter.grad = torch.randn(parameter.shape, generator=source)
        loop.param_groups[0]["lr"] = RATES[step]
        loop.step()
    for (_, ours), (_, theirs) in zip(fused, plain, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_muon_leaves_heads_and_vectors_to_adamw():
    named = parameters()
    optimizer = build_optimizer(named, settings_of(OptimizerName.MUON))
    learn(optimizer, named, range(1))
    slots = {key for key in optimizer.state_tensors() if key.endswith("momentum_buffer")}
    assert slots == {"layer.weight.momentum_buffer"}


def test_adafactor_moves_a_matrix_of_zeros_as_far_as_adamw():
    moved = {}
    for name in (OptimizerName.ADAFACTOR, OptimizerName.ADAMW):
        named = [("lora_b", nn.Parameter(torch.zeros(6, 4)))]
        learn(build_optimizer(named, settings_of(name)), named, range(1))
        moved[name] = float(named[0][1].detach().norm())
    assert moved["adafactor"] == pytest.approx(moved["adamw"], rel=0.5)
