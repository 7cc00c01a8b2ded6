from __future__ import annotations

import json

import pytest

from sintonia import catalog
from sintonia.bases.context import context_of
from sintonia.bases.folder import read_base
from sintonia.bases.library import Library
from sintonia.generation.engines.native import loading

LONG, SHORT = 131_072, 4096
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "factor": 4.0,
}


def config(rope: dict | None, **others) -> dict:
    return {"max_position_embeddings": LONG, "rope_scaling": rope, **others}


@pytest.mark.parametrize(
    "switching",
    [
        config({"rope_type": "longrope", "original_max_position_embeddings": SHORT}),
        config({"type": "longrope"}, original_max_position_embeddings=SHORT),
        config({"type": "su"}, original_max_position_embeddings=SHORT, model_type="phi3"),
        config({"type": "yarn"}, original_max_position_embeddings=SHORT, model_type="phi3"),
        config({"type": "dynamic", "factor": 2.0}, original_max_position_embeddings=SHORT),
        config(
            None,
            rope_parameters={
                "full_attention": {
                    "rope_type": "longrope",
                    "original_max_position_embeddings": SHORT,
                },
                "sliding_attention": {"rope_type": "default"},
            },
        ),
    ],
)
def test_a_model_that_computes_longer_texts_otherwise_is_used_up_to_there(switching):
    context = context_of(switching)
    assert context.tokens == SHORT
    assert f"up to {SHORT} of its {LONG} tokens" in context.note


@pytest.mark.parametrize(
    "static",
    [
        config(None),
        config({"rope_type": "linear", "factor": 4.0}),
        config({"rope_type": "yarn", "original_max_position_embeddings": SHORT}),
        config({"rope_type": "llama3", "original_max_position_embeddings": SHORT}),
        config({"rope_type": "dynamic", "factor": 2.0}),
        config({"rope_type": "longrope", "original_max_position_embeddings": LONG}),
    ],
)
def test_a_model_that_is_the_same_at_every_length_is_used_in_full(static):
    context = context_of(static)
    assert (context.tokens, context.note) == (LONG, "")


def test_training_and_serving_read_the_same_length(tiny_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny_folder.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    values = json.loads((source / "config.json").read_text())
    values.pop("rope_parameters", None)
    values["rope_scaling"] = {**LONGROPE, "original_max_position_embeddings": 128}
    (source / "config.json").write_text(json.dumps(values))
    added = Library(tmp_path / "home", catalog.load()).add("stretched", source)
    assert added.facts.context_tokens == 128
    folder = tmp_path / "home" / "models" / "base" / "stretched"
    assert read_base(folder).facts.context_note.startswith("used up to 128 of its 512 tokens")
    assert loading.load_base(folder, added.ref.sha256).context_tokens == 128


def test_a_model_that_is_used_in_full_has_no_word_about_it(tiny_home):
    facts = tiny_home / "models" / "base" / "tiny" / "sintonia.json"
    assert "context_note" not in json.loads(facts.read_text())
