"""Models that follow no forest compute row by row, and nothing that looks ahead is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sintonia.data.forest import EncodedSequence, build_forest, count_tokens, pack, pack_rows
from sintonia.errors import RefusedModel
from sintonia.models import adapters, attention
from sintonia.models.load import follows_forest, load_base
from sintonia.models.policy import Policy
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings
from tiny_models import SEPARATE_FAMILIES, save_tiny, tiny_model


def rows(*, is_apart: bool) -> list[EncodedSequence]:
    """Rows that begin alike, of unequal lengths, two of them the same."""
    numbers = np.random.default_rng(0)
    stem = numbers.integers(0, 256, 9, dtype=np.int32)
    tails = [numbers.integers(0, 256, n, dtype=np.int32) for n in (3, 8, 5)]
    tokens = [np.concatenate([stem, tail]) for tail in (*tails, tails[0])]
    return [EncodedSequence(t, 8, 1.0, n, is_apart=is_apart) for n, t in enumerate(tokens)]


def test_rows_apart_are_laid_out_whole_and_learn_the_same():
    together, apart = build_forest(rows(is_apart=False)), build_forest(rows(is_apart=True))
    assert apart.num_tokens == sum(len(row.tokens) for row in rows(is_apart=True))
    assert together.num_tokens < apart.num_tokens == count_tokens(rows(is_apart=True))
    assert int((apart.positions_T == 0).sum()) == 4
    for number in range(4):
        mine = apart.sequence_of_N == number
        assert list(apart.targets_N[mine]) == list(
            together.targets_N[together.sequence_of_N == number]
        )
        assert list(apart.positions_T[apart.predict_from_N[mine]]) == list(
            together.positions_T[together.predict_from_N[together.sequence_of_N == number]]
        )
    for packed in (pack, pack_rows):
        forests = list(packed(rows(is_apart=True), 30))
        assert max(forest.num_tokens for forest in forests) <= 30
        assert sum(forest.num_tokens for forest in forests) == apart.num_tokens


@pytest.fixture(scope="module", params=SEPARATE_FAMILIES)
def separate(request, tmp_path_factory, tiny_tokenizer_json) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_tiny(request.param, folder, tiny_tokenizer_json)
    return folder


def test_a_family_that_ignores_the_attention_it_is_given_has_the_loss_of_plain_rows(separate):
    model = load_base(separate)
    assert not attention.is_used_by(model)
    adapters.attach(
        model, LoraSettings(rank=4, alpha=8, targets=linear_layers(separate)), are_guessed=True
    )
    adapters.reset(model, seed=1)
    forest = build_forest(rows(is_apart=True))
    output = Supervised().loss(Policy(model), forest)
    output.total.backward()
    assert any(float(p.grad.abs().max()) > 0 for p in model.parameters() if p.grad is not None)
    plain = tiny_model(separate.parent.name.rstrip("0123456789")).eval()
    expected = 0.0
    for row in rows(is_apart=True):
        ids = torch.from_numpy(row.tokens.astype(np.int64))[None]
        with torch.no_grad():
            logits = plain(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        expected -= float(logits[7:-1].gather(1, ids[0, 8:, None]).sum())
    assert float(output.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=258,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.2,
    )
    BertLMHeadModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(RefusedModel, match="looks at the tokens after"):
        load_base(tmp_path / "model")


@pytest.mark.parametrize("family", ["mistral", "gemma3", "phi3"])
def test_a_window_wider_than_the_check_is_checked_and_put_back(
    family, tmp_path, tiny_tokenizer_json
):
    model = tiny_model(family)
    model.config.sliding_window = 300
    model.save_pretrained(tmp_path / "model")
    loaded = load_base(tmp_path / "model")
    assert attention.is_used_by(loaded)
    assert loaded.config.sliding_window == 300
    windows = {getattr(module, "sliding_window", None) for module in loaded.modules()}
    assert windows <= {None, 300}


def test_a_mixtures_balancing_loss_is_off(tmp_path, tiny_tokenizer_json):
    save_tiny("mixtral", tmp_path / "model", tiny_tokenizer_json)
    assert tiny_model("mixtral").config.output_router_logits
    assert not load_base(tmp_path / "model").config.output_router_logits


def test_rows_that_would_be_shared_are_never_scored_by_a_model_that_cannot(separate):
    forest = build_forest([dataclasses.replace(row, is_apart=False) for row in rows(is_apart=True)])
    with pytest.raises(AssertionError):
        Policy(load_base(separate)).score(forest)


def test_want_of_memory_in_the_check_is_no_sign_of_the_family():
    model = tiny_model("llama")
    attention.register()
    model.set_attn_implementation(attention.NAME)
    assert follows_forest(model)

    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="allocate"):
        follows_forest(model)
