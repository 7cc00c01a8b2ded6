"""A forest's loss and gradient equal those of its separate rows, for each family."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest, pack
from sintonia.errors import RefusedModel
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings
from tiny_models import TINY_FAMILIES, save_tiny


def rows(seed: int = 0, count: int = 12) -> list[EncodedSequence]:
    """Rows with nested shared prefixes, different lengths and weights, one of them twice."""
    numbers = np.random.default_rng(seed)
    stems = [numbers.integers(0, 256, n, dtype=np.int32) for n in (9, 14)]
    made = []
    for row in range(count):
        tail = numbers.integers(0, 256, int(numbers.integers(3, 12)), dtype=np.int32)
        stem = stems[row % 2][: int(numbers.integers(5, 15))]
        weight = 0.5 if row % 5 == 0 else 1.0
        made.append(EncodedSequence(np.concatenate([stem, tail]), len(stem) + 1, weight, row))
    return [*made, EncodedSequence(made[3].tokens, made[3].num_prompt_tokens, 1.0, count)]


@pytest.fixture(scope="module", params=TINY_FAMILIES)
def policy(request, tmp_path_factory, tiny_tokenizer_json) -> Policy:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_tiny(request.param, folder, tiny_tokenizer_json)
    model = load_base(folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=linear_layers(folder)))
    adapters.reset(model, seed=1)
    with torch.no_grad():
        for number, (_, layer) in enumerate(adapters.layers(model)):
            generator = torch.Generator().manual_seed(number)
            layer.lora_b.copy_(torch.randn(layer.lora_b.shape, generator=generator) * 0.02)
    return Policy(model)


def loss_and_gradient(policy: Policy, forests) -> tuple[float, torch.Tensor]:
    policy.model.zero_grad()
    total = 0.0
    for forest in forests:
        output = Supervised().loss(policy, forest)
        output.total.backward()
        total += float(output.total.detach())
    gradients = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return total, torch.cat(gradients)


def test_a_forest_has_the_loss_and_gradient_of_its_separate_rows(policy):
    sequences = rows()
    whole = build_forest(sequences)
    assert whole.num_tokens < sum(len(s.tokens) for s in sequences)
    together, gradient = loss_and_gradient(policy, [whole])
    alone, gradient_alone = loss_and_gradient(policy, [build_forest([s]) for s in sequences])
    count = Supervised().count(whole)
    assert together / count == pytest.approx(alone / count, abs=1e-6)
    assert torch.allclose(gradient / count, gradient_alone / count, atol=1e-6)


def test_a_forest_has_the_loss_of_plain_transformers_on_padded_free_rows(policy):
    for sequence in rows(seed=3, count=4):
        forest = build_forest([sequence])
        model = policy.model
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        ids = torch.from_numpy(sequence.tokens.astype(np.int64))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        model.set_attn_implementation(before)
        start = sequence.num_prompt_tokens
        picked = logits.detach()[start - 1 : -1].gather(1, ids[0, start:, None])
        expected = -float(picked.sum()) * sequence.weight
        assert float(Supervised().loss(policy, forest).total.detach()) == pytest.approx(
            expected, rel=1e-5
        )


def test_packing_into_small_forests_changes_nothing(policy):
    sequences = rows(seed=5)
    whole, _ = loss_and_gradient(policy, [build_forest(sequences)])
    packed, _ = loss_and_gradient(policy, pack(sequences, max_tokens=40))
    assert packed == pytest.approx(whole, rel=1e-5)


def test_a_folder_that_misses_a_weight_is_refused_and_never_filled_with_noise(
    tiny_folder, tmp_path
):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match="incomplete"):
        load_base(folder)
