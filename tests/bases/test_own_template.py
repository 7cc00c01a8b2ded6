"""Our chat format over bases that bring none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folder_edits import edit

from sintonia.data.renderer import Renderer
from sintonia.domain.examples import ChatExample, Message

END = "<|endoftext|>"


@pytest.fixture
def gpt2_folder(tmp_path, tiny_tokenizer_json) -> Path:
    """A random GPT-2 whose tokenizer has one special token, as GPT-2's own."""
    from tiny_models import save_tiny

    tokenizer = json.loads(tiny_tokenizer_json)
    tokenizer["added_tokens"] = [{**tokenizer["added_tokens"][0], "content": END}]
    folder = tmp_path / "gpt2"
    save_tiny("gpt2", folder, json.dumps(tokenizer))
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, eos_token_id=256, bos_token_id=256)
    return folder


def test_turns_end_in_the_own_end_token_of_a_model_without_chatmls(library, gpt2_folder):
    base = library.add("mine", gpt2_folder)
    assert base.facts.stop_tokens == (END,)
    renderer = Renderer.from_folder(Path(base.ref.folder))
    messages = (
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("assistant", "four"),
    )
    first, second = renderer.sequences(ChatExample(messages))
    assert first.answer_ids[-1:] == second.answer_ids[-1:] == renderer.stop_token_ids == (256,)
    assert renderer.decode(first.answer_ids) == "two"
    assert renderer.decode(second.answer_ids) == "four"
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
    assert list(second.prompt_ids).count(256) == 3
    assert second.prompt_ids == tuple(renderer.chat_prompt(messages[:3]))


def test_a_base_that_has_chatmls_token_but_ends_otherwise_ends_turns_its_own_way(library, folder):
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, eos_token_id=256)
    base = library.add("mine", folder)
    renderer = Renderer.from_folder(Path(base.ref.folder))
    messages = (Message("user", "one"), Message("assistant", "two"))
    [sequence] = renderer.sequences(ChatExample(messages))
    assert sequence.answer_ids[-1:] == renderer.stop_token_ids == (256,)
