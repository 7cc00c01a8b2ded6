from __future__ import annotations

import pytest

from sintonia.domain.choices import Choices, LoraChoices
from sintonia.runs.plan import linear_layers, unknown_targets


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj"], "gate_proj q_proj"),
        (["model.embed_tokens", "transformer.wte", "transformer.wpe", "lm_head"], ""),
        (["transformer.word_embeddings", "model.embed_tokens_per_layer", "embed_out"], ""),
        (["model.layers.0.input_layernorm", "model.layers.0.q_norm"], ""),
        (["model.decoder.project_in", "model.decoder.project_out", "decoder.fc1"], "fc1"),
        (["l.0.mlp.gate", "l.0.mlp.router", "l.0.block_sparse_moe.gate", "l.0.k_proj"], "k_proj"),
        (["l.0.mlp.experts.0.w1", "l.0.mlp.shared_expert_gate", "l.0.o_proj"], "o_proj"),
    ],
)
def test_linear_layers_are_told_from_what_only_looks_like_them(names, expected, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {f"{name}.weight": np.zeros((2, 2), np.float32) for name in names}
    tensors["l.0.mlp.experts.gate_up_proj"] = np.zeros((2, 2, 2), np.float32)
    tensors["l.0.bias_like.weight"] = np.zeros(2, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    assert linear_layers(tmp_path) == tuple(expected.split())


def test_every_target_that_the_base_does_not_have_is_named_before_anything_is_trained(tiny_folder):
    layers = linear_layers(tiny_folder)
    assert unknown_targets(Choices(), layers) == []
    known = Choices(lora=LoraChoices(targets=("q_proj", "lm_head")))
    assert unknown_targets(known, layers) == []
    wrong = Choices(lora=LoraChoices(targets=("w_magic", "q_proj", "a_magic")))
    (told,) = unknown_targets(wrong, layers)
    assert "a_magic, w_magic: the base model has no such" in told.message
    assert "q_proj" in told.message
    assert told.param == "sintonia.lora.targets"
