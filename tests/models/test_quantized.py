"""Linear layers in four bits: what they compute, what is left wide, what an adapter does there."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="needs sintonia[quantized]")

from sintonia.errors import InvalidValue
from sintonia.models import adapters, attention, decoder
from sintonia.models.load import Place, load_base
from sintonia.models.lora import LoraLinear
from sintonia.models.quantized import BYTES_PER_WEIGHT, Nf4Linear, count_layers, quantize
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings
from tiny_models import save_tiny


def loaded(family, folder, tokenizer_json, dtype=torch.float32):
    save_tiny(family, folder, tokenizer_json)
    names = linear_layers(folder)
    return load_base(folder, Place(dtype, "cpu", names)), names


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_linear_layer_but_the_head_is_in_four_bits(
    family, dtype, tmp_path, tiny_tokenizer_json
):
    model, names = loaded(family, tmp_path / "model", tiny_tokenizer_json, dtype)
    assert attention.is_used_by(model), "the rounded model still follows a forest"
    rounded = [name for name, m in model.named_modules() if isinstance(m, Nf4Linear)]
    left = {"down_proj"} & set(names)  # its 96 inputs fill no blocks of 64
    assert {name.rsplit(".", 1)[-1] for name in rounded} == set(names) - left
    assert not isinstance(model.get_output_embeddings(), Nf4Linear)
    wide = load_base(tmp_path / "model", Place(dtype))
    for name in rounded:
        kept, stored = model.get_submodule(name), wide.get_submodule(name)
        weight = stored.weight.t() if kept.is_transposed else stored.weight
        error = (kept.dequantized() - weight).abs().mean() / weight.abs().mean()
        assert 0.05 < error < 0.12, "as NF4 rounds normal numbers"
        assert kept.dequantized().dtype == dtype
        assert kept.packed.numel() == weight.numel() // 2


def test_a_layer_is_the_product_with_the_weight_that_it_tells():
    linear = torch.nn.Linear(64, 96)
    layer = Nf4Linear(linear, torch.device("cpu"))
    x = torch.randn(1, 5, 64, requires_grad=True)
    y = layer(x)
    assert torch.allclose(y, x @ layer.dequantized().t() + linear.bias, atol=1e-5)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(grad, torch.ones_like(y) @ layer.dequantized(), atol=1e-5)


def test_the_bytes_of_a_weight_are_those_that_are_kept():
    layer = Nf4Linear(torch.nn.Linear(1024, 512, bias=False), torch.device("cpu"))
    scales = layer._state
    parts = (layer.packed, scales.absmax, scales.state2.absmax)
    size = sum(part.numel() * part.element_size() for part in parts)
    assert size / (1024 * 512) == pytest.approx(BYTES_PER_WEIGHT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_goes_beside_it_and_loses_nothing(dtype, tmp_path, tiny_tokenizer_json):
    model, names = loaded("llama", tmp_path / "model", tiny_tokenizer_json, dtype)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=names))
    adapters.reset(model, seed=0)
    assert not decoder.fuse(model)
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, LoraLinear)
    assert not layer.is_merged
    assert layer.lora_a.dtype == layer.lora_b.dtype == torch.float32
    x = torch.randn(1, 3, 64, dtype=dtype)
    with torch.no_grad():
        layer.lora_b.normal_(std=1e-3)
        found = layer(x) - layer.base(x)
    update = layer.scale * x.float() @ layer.lora_a.t() @ layer.lora_b.t()
    rounding = 0.0 if dtype == torch.float32 else float(layer.base(x).abs().max()) * 2**-8
    assert torch.allclose(found.float(), update, atol=1e-6 + rounding)


@pytest.mark.parametrize("targets", [("lm_head",), ("down_proj",)])
def test_layers_in_four_bits_are_not_fused_where_no_adapter_is_over_them(
    targets, tmp_path, tiny_tokenizer_json
):
    model, _ = loaded("llama", tmp_path / "model", tiny_tokenizer_json)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, targets=targets))
    adapters.reset(model, seed=0)
    assert not decoder.fuse(model)


def test_an_adapter_over_it_is_saved_as_over_any_base(tmp_path, tiny_tokenizer_json):
    model, names = loaded("gpt2", tmp_path / "model", tiny_tokenizer_json)
    wide = load_base(tmp_path / "model")
    lora = LoraSettings(rank=4, alpha=8, targets=names)
    for number, one in enumerate((model, wide)):
        adapters.attach(one, lora)
        adapters.reset(one, seed=3)
        folder = tmp_path / str(number)
        folder.mkdir()
        adapters.save(one, folder, lora, "base")
    for name in (adapters.CONFIG, adapters.WEIGHTS):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_a_base_of_which_nothing_can_be_rounded_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(48, 64), torch.nn.Linear(96, 48))
    with pytest.raises(InvalidValue, match="nothing would be kept in four bits"):
        quantize(model, ("0", "1"), torch.device("cpu"))
    assert count_layers(model, ("0", "1")) == (0, 2)
