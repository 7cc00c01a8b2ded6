from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folder_edits import edit
from safetensors.numpy import load_file, save_file

from sintonia.errors import InvalidValue
from sintonia.errors import RefusedModel as Refused

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def test_an_adapter_is_taken_in_over_its_base(library, folder, adapter):
    base = library.add("mine", folder)
    model = library.add_adapter("tuned-elsewhere", adapter, "mine", "t" * 64)
    assert model.base == base.ref
    assert (Path(model.folder) / "chat_template.jinja").exists()
    with pytest.raises(InvalidValue, match="sintonia gc"):
        library.add_adapter("tuned-elsewhere", adapter, "mine", "t" * 64)


def test_an_adapter_for_another_base_is_refused_by_layer(library, folder, adapter, tmp_path):
    from tiny_models import save_tiny

    save_tiny("gpt2", tmp_path / "other", '{"version": "1.0"}')
    shutil.copyfile(folder / "tokenizer.json", tmp_path / "other" / "tokenizer.json")
    library.add("other", tmp_path / "other")
    with pytest.raises(Refused, match="another base"):
        library.add_adapter("x", adapter, "other", "t" * 64)


def test_an_adapter_of_another_kind_is_refused(library, folder, adapter):
    library.add("mine", folder)
    edit(adapter / "adapter_config.json", use_dora=True)
    with pytest.raises(Refused, match="use_dora"):
        library.add_adapter("x", adapter, "mine", "t" * 64)


def test_an_adapter_is_not_added_as_a_whole_model(library, adapter):
    with pytest.raises(Refused):
        library.add("x", adapter)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"bias": "lora_only"}, "biases"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "eva"}, "eva"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"r": None}, "r=None"),
        ({"r": 0}, "r=0"),
        ({"r": True}, "r=True"),
        ({"r": 2.0}, "r=2.0"),
        ({"lora_alpha": None}, "lora_alpha=None"),
        ({"lora_alpha": -8}, "lora_alpha=-8"),
        ({"lora_alpha": "8"}, "lora_alpha='8'"),
        ({"r": 4}, "with this base and r=4"),
    ],
)
def test_what_is_not_plain_lora_is_refused_with_the_reason(values, words, library, folder, adapter):
    library.add("mine", folder)
    edit(adapter / CONFIG, **values)
    with pytest.raises(Refused, match=words):
        library.add_adapter("x", adapter, "mine", "t" * 64)
    assert not (library.home / "models" / "tuned" / "x").exists()


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(text, library, folder, adapter):
    library.add("mine", folder)
    (adapter / CONFIG).write_text(text)
    with pytest.raises(Refused, match=CONFIG):
        library.add_adapter("x", adapter, "mine", "t" * 64)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


def first(tensors, part):
    return next(name for name in sorted(tensors) if part in name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {}, "no tensors"),
        (lambda t: without(t, first(t, "lora_A")), "has no lora_A"),
        (lambda t: without(t, first(t, "lora_B")), "has no lora_B"),
        (lambda t: {**t, first(t, "lora_A"): t[first(t, "lora_A")][None]}, "another base"),
        (lambda t: {**t, first(t, "lora_B"): t[first(t, "lora_B")][:-1]}, "another base"),
        (lambda t: {**t, "base_model.model.x.weight": t[first(t, "lora_A")]}, "no part of a LoRA"),
        (lambda t: {n.replace("layers.1", "layers.7"): v for n, v in t.items()}, "no linear layer"),
    ],
)
def test_tensors_that_are_no_pairs_of_this_base_are_refused(
    change, words, library, folder, adapter
):
    library.add("mine", folder)
    save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(Refused, match=words):
        library.add_adapter("x", adapter, "mine", "t" * 64)


def test_a_truncated_adapter_is_refused(library, folder, adapter):
    library.add("mine", folder)
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[:-1])
    with pytest.raises(Refused, match="not a whole safetensors file"):
        library.add_adapter("x", adapter, "mine", "t" * 64)


def test_what_the_engine_computes_exactly_is_taken_in(library, folder, adapter):
    library.add("mine", folder)
    edit(adapter / CONFIG, use_rslora=True, target_modules=".*(q|down)_proj")
    assert Path(library.add_adapter("x", adapter, "mine", "t" * 64).folder).is_dir()
