"""What is switched while a model learns: dropout of adapters, and layers that are recomputed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.models import adapters
from sintonia.models.learning import learning, recompute_layers
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings
from tiny_models import save_tiny


def forest(*, is_apart: bool = False):
    numbers = np.random.default_rng(0)
    stem = numbers.integers(0, 256, 20, dtype=np.int32)
    tails = [numbers.integers(0, 256, n, dtype=np.int32) for n in (3, 8, 5)]
    return build_forest(
        [
            EncodedSequence(np.concatenate([stem, tail]), 8, 1.0, n, is_apart=is_apart)
            for n, tail in enumerate(tails)
        ]
    )


def policy_of(family, tmp_path, tokenizer_json, **options) -> Policy:
    folder = tmp_path / "model"
    if not folder.exists():
        save_tiny(family, folder, tokenizer_json)
    model = load_base(folder)
    lora = LoraSettings(rank=4, alpha=8, targets=linear_layers(folder), **options)
    adapters.attach(model, lora, are_guessed=True)
    adapters.reset(model, seed=1)
    with torch.no_grad():
        for _, layer in adapters.layers(model):
            layer.lora_b.fill_(0.01)
    return Policy(model)


def learn(policy: Policy, *, seed=0, step=1, is_apart=False, calls=1):
    """Return the loss and the gradient of one step."""
    policy.model.zero_grad()
    with learning(policy.model, seed, step):
        losses = [
            -policy.score(forest(is_apart=is_apart)).log_probabilities_N.sum() for _ in range(calls)
        ]
        sum(losses).backward()
    gradients = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return [float(loss.detach()) for loss in losses], torch.cat(gradients)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "mixtral", "bloom", "falcon"])
def test_recomputed_layers_have_the_loss_and_the_gradient_of_kept_ones(
    family, tmp_path, tiny_tokenizer_json
):
    is_apart = family in {"bloom", "falcon"}
    kept = policy_of(family, tmp_path, tiny_tokenizer_json)
    recomputed = policy_of(family, tmp_path, tiny_tokenizer_json)
    recompute_layers(recomputed.model)
    loss, gradient = learn(kept, is_apart=is_apart)
    again, gradient_again = learn(recomputed, is_apart=is_apart)
    assert again == loss
    assert torch.allclose(gradient_again, gradient, atol=1e-7)


def test_layers_are_recomputed_only_while_learning(tmp_path, tiny_tokenizer_json):
    policy = policy_of("llama", tmp_path, tiny_tokenizer_json)
    recompute_layers(policy.model)
    calls = []
    norm = policy.model.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append(1))
    learn(policy)
    assert len(calls) == 2, "once forward, once again in the backward pass"
    policy.score(forest()).log_probabilities_N.sum().backward()
    assert len(calls) == 3
    assert not any(module.training for module in policy.model.modules())


def test_dropout_is_a_function_of_seed_and_step(tmp_path, tiny_tokenizer_json):
    policy = policy_of("llama", tmp_path, tiny_tokenizer_json, dropout=0.5)
    first, gradient = learn(policy, is_apart=True)
    torch.rand(7)  # whatever was drawn in between
    same, gradient_same = learn(policy, is_apart=True)
    assert same == first
    assert torch.equal(gradient_same, gradient)
    assert learn(policy, step=2, is_apart=True)[0] != first
    assert learn(policy, seed=2, is_apart=True)[0] != first
    both, _ = learn(policy, is_apart=True, calls=2)
    assert both[0] == first[0] != both[1], "each micro-batch drops others"
    with torch.no_grad():
        measured = [float(policy.score(forest()).log_probabilities_N.sum()) for _ in range(2)]
    assert measured[0] == measured[1] != -first[0]


def test_recomputation_drops_what_the_forward_pass_dropped(tmp_path, tiny_tokenizer_json):
    kept = policy_of("llama", tmp_path, tiny_tokenizer_json, dropout=0.5)
    recomputed = policy_of("llama", tmp_path, tiny_tokenizer_json, dropout=0.5)
    recompute_layers(recomputed.model)
    loss, gradient = learn(kept, is_apart=True, calls=2)
    again, gradient_again = learn(recomputed, is_apart=True, calls=2)
    assert again == loss
    assert torch.allclose(gradient_again, gradient, atol=1e-6)
