from __future__ import annotations

import json
from pathlib import Path

import pytest
from folder_edits import edit
from safetensors.numpy import load_file, save_file

from sintonia.bases.inspection import check_base
from sintonia.errors import RefusedModel as Refused


def test_code_in_a_folder_is_refused_with_the_reason(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    with pytest.raises(Refused, match=r"modeling_evil\.py"):
        check_base(folder)


def test_a_config_that_asks_for_code_is_refused(folder):
    edit(folder / "config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(Refused, match="auto_map"):
        check_base(folder)


def test_a_folder_of_pickles_only_is_refused_and_says_what_to_do(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Refused, match="convert them to safetensors"):
        check_base(folder)


def test_all_reasons_are_given_at_once(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refused) as refused:
        check_base(folder)
    assert "tokenizer.json is missing" in refused.value.message
    assert "no *.safetensors" in refused.value.message


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "secret").write_text("s")
    (folder / "notes.json").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match="outside"):
        check_base(folder)


def test_quantized_weights_are_refused_by_method(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(Refused, match=r"quantized \(gptq\)"):
        check_base(folder)


@pytest.mark.parametrize(
    ("model_type", "words"),
    [("made-up", "unknown to transformers"), ("vit", "continues a text"), (None, "no model_type")],
)
def test_a_family_that_cannot_write_text_is_refused(model_type, words, folder):
    edit(folder / "config.json", model_type=model_type)
    with pytest.raises(Refused, match=words):
        check_base(folder)


@pytest.mark.parametrize("text", ["[]", "not json"])
def test_a_config_that_is_no_object_is_refused(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(Refused, match=r"config\.json is not"):
        check_base(folder)


@pytest.mark.parametrize(
    "change", [lambda whole: whole[:-1], lambda whole: whole + b"more", lambda whole: whole[:20]]
)
def test_weights_that_are_not_as_long_as_their_header_says_are_refused(change, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(Refused, match="not a whole safetensors file"):
        check_base(folder)


def split(folder: Path) -> None:
    """Turn the weights of ``folder`` into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {tensor: names[number % 2] for number, tensor in enumerate(sorted(tensors))}
    for name in names:
        part = {tensor: tensors[tensor] for tensor, place in places.items() if place == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_only_the_files_that_a_model_needs_are_copied(library, folder):
    split(folder)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "model.gguf", "notes.json"):
        (folder / name).write_bytes(b"not needed")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"not needed")
    added = Path(library.add("mine", folder).ref.folder)
    weights = {path.name for path in added.iterdir() if "model" in path.name}
    assert weights == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    assert not {"consolidated.safetensors", "notes.json", "onnx"} & {
        p.name for p in added.iterdir()
    }


def test_an_index_that_names_a_missing_shard_is_refused_by_name(folder):
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Refused, match="missing: model-00002-of-00002"):
        check_base(folder)


def test_every_shard_must_be_whole(folder):
    split(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(Refused, match=r"model-00002-of-00002\.safetensors is not a whole"):
        check_base(folder)


@pytest.mark.parametrize("places", [{"w": "../model.safetensors"}, {}, {"w": 3}, ["a"]])
def test_an_index_that_points_elsewhere_or_nowhere_is_refused(places, folder):
    split(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(Refused, match="index"):
        check_base(folder)


def test_shards_without_an_index_are_refused(folder):
    split(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(Refused, match="nor shards with"):
        check_base(folder)


@pytest.mark.parametrize("text", ["{}", "", '{"model": {"type": "BPE"}}'])
def test_a_tokenizer_that_cannot_be_read_is_refused_and_leaves_nothing(text, library, folder):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(Refused, match=r"tokenizer\.json cannot be read"):
        library.add("mine", folder)
    assert not library.holds("mine")


def test_a_template_that_is_no_jinja_is_refused_and_leaves_nothing(library, folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}")
    with pytest.raises(Refused, match="chat template cannot be read"):
        library.add("mine", folder)
    assert not library.holds("mine")


def test_an_end_token_that_the_tokenizer_does_not_have_is_refused(library, folder):
    edit(folder / "config.json", eos_token_id=[9999, "x", -1])
    edit(folder / "generation_config.json", eos_token_id=9999)
    with pytest.raises(Refused, match="no end token"):
        library.add("mine", folder)
