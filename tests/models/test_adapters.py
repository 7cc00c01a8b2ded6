from __future__ import annotations

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.errors import InvalidValue, RefusedModel
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.lora import LoraLinear
from sintonia.models.policy import Policy
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings, OptimizerName, OptimizerSettings
from sintonia.training.optimizer import build_optimizer
from tiny_models import save_tiny, tiny_model


def with_adapter(folder, seed=0, rank=4):
    lora = LoraSettings(rank=rank, alpha=8.0, targets=linear_layers(folder))
    model = load_base(folder)
    adapters.attach(model, lora)
    adapters.reset(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in adapters.layers(model):
            layer.lora_b.copy_(torch.randn(layer.lora_b.shape, generator=generator) * 0.05)
    return model, lora


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_loads_what_we_save_and_computes_the_same(family, tmp_path, tiny_tokenizer_json):
    from peft import PeftModel

    save_tiny(family, tmp_path / "base", tiny_tokenizer_json)
    model, lora = with_adapter(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    adapters.save(model, tmp_path / "adapter", lora, "base")
    theirs = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter").eval()
    tokens = np.arange(20, dtype=np.int32)
    forest = build_forest([EncodedSequence(tokens, 1, 1.0, 0)])
    ours = Policy(model).score(forest).log_probabilities_N
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    expected = theirs(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    assert torch.allclose(ours, expected[:, 0], atol=1e-5)


def test_we_load_what_peft_saves(tmp_path, tiny_folder):
    from peft import LoraConfig, get_peft_model

    targets = list(linear_layers(tiny_folder))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    from transformers import AutoModelForCausalLM

    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    model = load_base(tiny_folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=tuple(targets)))
    adapters.load(model, tmp_path / "adapter")
    tokens = np.arange(30, dtype=np.int32)
    ours = Policy(model).score(build_forest([EncodedSequence(tokens, 1, 1.0, 0)]))
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    expected = theirs(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    assert torch.allclose(ours.log_probabilities_N, expected[:, 0], atol=1e-5)


def test_the_merged_product_has_the_gradient_of_the_side_branch(tiny_folder):
    torch.manual_seed(0)
    lora = LoraSettings(rank=3, alpha=6.0)
    linear = torch.nn.Linear(8, 5).requires_grad_(False)
    layer = LoraLinear(linear, lora)
    layer.reset(torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer.lora_b.normal_()
    x = torch.randn(2, 7, 8, requires_grad=True)
    layer(x).square().sum().backward()
    found = [x.grad.clone(), layer.lora_a.grad.clone(), layer.lora_b.grad.clone()]
    x.grad = layer.lora_a.grad = layer.lora_b.grad = None
    side = linear(x) + 2.0 * (x @ layer.lora_a.t()) @ layer.lora_b.t()
    side.square().sum().backward()
    expected = [x.grad, layer.lora_a.grad, layer.lora_b.grad]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_merged_weight_follows_an_optimizer_step(tiny_folder):
    model, _ = with_adapter(tiny_folder)
    _, layer = next(iter(adapters.layers(model)))
    before = layer.merged().clone()
    optimizer = torch.optim.AdamW([layer.lora_a, layer.lora_b], lr=0.1)
    layer.lora_a.grad = torch.ones_like(layer.lora_a)
    layer.lora_b.grad = torch.ones_like(layer.lora_b)
    optimizer.step()
    after = layer.merged()
    assert not torch.equal(before, after)
    expected = layer.base.weight + layer.scale * layer.lora_b @ layer.lora_a
    assert torch.allclose(after, expected, atol=1e-6)


@pytest.mark.parametrize("name", OptimizerName)
def test_the_merged_weight_follows_every_optimizer(name, tiny_folder):
    model, _ = with_adapter(tiny_folder)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = build_optimizer(trained, OptimizerSettings.usual(0.1, name))
    for _, layer in adapters.layers(model):
        layer.merged()
    for _, parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.1)
    for _, layer in adapters.layers(model):
        expected = layer.base.weight + layer.scale * layer.lora_b @ layer.lora_a
        assert torch.allclose(layer.merged(), expected, atol=1e-5)


def test_a_target_that_the_model_does_not_have_is_refused_by_name(tiny_folder):
    with pytest.raises(InvalidValue, match="w_magic"):
        adapters.attach(load_base(tiny_folder), LoraSettings(targets=("q_proj", "w_magic")))


def test_guessed_targets_need_only_one_that_the_model_has(tiny_folder):
    model = load_base(tiny_folder)
    adapters.attach(model, LoraSettings(targets=("q_proj", "w_magic")), are_guessed=True)
    assert {name.rpartition(".")[2] for name, _ in adapters.layers(model)} == {"q_proj"}
    with pytest.raises(InvalidValue, match="w_magic"):
        adapters.attach(model, LoraSettings(targets=("w_magic",)), are_guessed=True)


def test_an_adapter_of_another_shape_is_refused(tmp_path, tiny_folder):
    model, lora = with_adapter(tiny_folder, rank=4)
    adapters.save(model, tmp_path, lora, "base")
    other, _ = with_adapter(tiny_folder, rank=8)
    with pytest.raises(RefusedModel, match="shape"):
        adapters.load(other, tmp_path)


def test_backward_is_deterministic_with_many_and_repeated_learned_positions(tiny_folder):
    model, _ = with_adapter(tiny_folder)
    numbers = np.random.default_rng(0)
    stem = numbers.integers(0, 256, 400, dtype=np.int32)
    tails = [numbers.integers(0, 256, 4, dtype=np.int32) for _ in range(4)]
    rows = [EncodedSequence(np.concatenate([stem, t]), 3, 1.0, i) for i, t in enumerate(tails)]
    forest = build_forest([*rows, rows[0]])
    assert len(forest.targets_N) >= 2000
    assert len(np.unique(forest.predict_from_N)) < len(forest.predict_from_N)
    policy = Policy(model)

    def gradient():
        model.zero_grad()
        policy.score(forest).log_probabilities_N.sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(10))
