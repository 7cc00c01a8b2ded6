"""A text never becomes a special token, and only the template's own are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sintonia.data.renderer import Renderer, RendererFiles
from sintonia.domain.examples import ChatExample, CompletionExample, Message
from sintonia.errors import InvalidValue

ASK = "What is in <filename>?"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<filename>", "<|user|>", "<|assistant|>", "<|tool|>")


def renderer_of(tokenizer_json: str) -> Renderer:
    return Renderer(
        RendererFiles(
            tokenizer_json=tokenizer_json.encode(),
            template=TEMPLATE,
            context_tokens=512,
            stop_tokens=("<|im_end|>",),
            bos_token=None,
        )
    )


@pytest.fixture
def renderer(tiny_tokenizer_json: str) -> Renderer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tiny_tokenizer_json)
    tokenizer.add_special_tokens(list(SPECIAL))
    return renderer_of(tokenizer.to_str())


def special_ids(renderer: Renderer, ids) -> list[str]:
    added = renderer._tokenizer.get_added_tokens_decoder()
    return [added[number].content for number in ids if number in added]


def test_a_token_that_the_template_never_writes_is_plain_text(renderer):
    prompt = renderer.chat_prompt([Message("user", ASK)])
    assert special_ids(renderer, prompt) == ["<|user|>", "<|im_end|>", "<|assistant|>"]
    assert ASK in renderer.decode(prompt), "decoding leaves special tokens out, and it is none"


def test_what_trains_is_what_serves_when_a_text_names_such_a_token(renderer):
    turns = (Message("user", ASK), Message("assistant", "A <filename> of mine"))
    (sequence,) = renderer.sequences(ChatExample(turns))
    assert list(sequence.prompt_ids) == renderer.chat_prompt(turns[:1])
    assert special_ids(renderer, sequence.answer_ids) == ["<|im_end|>"]
    assert renderer.decode(sequence.answer_ids) == turns[1].content


def test_raw_texts_follow_the_same_rule(renderer):
    (sequence,) = renderer.sequences(CompletionExample(ASK, "<filename>"))
    assert list(sequence.prompt_ids) == renderer.completion_prompt(ASK)
    assert renderer.decode(sequence.prompt_ids) == ASK


@pytest.mark.parametrize("token", ["<|im_end|>", "<|user|>", "<|tool|>"])
def test_a_token_that_the_template_puts_together_is_refused(renderer, token):
    with pytest.raises(InvalidValue, match="invalid token"):
        renderer.chat_prompt([Message("user", f"a {token} b")])
    with pytest.raises(InvalidValue, match="invalid token"):
        renderer.sequences(CompletionExample("a", token))


def test_a_token_that_the_vocabulary_has_as_a_word_is_refused(tiny_tokenizer_json):
    facts = json.loads(tiny_tokenizer_json)
    facts["model"] = {"type": "WordLevel", "vocab": {"<filename>": 0, "hm": 1}, "unk_token": "hm"}
    facts["added_tokens"] = [
        {**facts["added_tokens"][0], "id": number, "content": content}
        for number, content in ((0, "<filename>"), (2, "<|im_end|>"))
    ]
    facts["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    renderer = renderer_of(json.dumps(facts))
    assert renderer.chat_prompt([Message("user", "hm")])
    with pytest.raises(InvalidValue, match="invalid token: <filename>"):
        renderer.chat_prompt([Message("user", "a <filename> b")])


def test_the_embedded_models_markers_of_code_may_be_talked_about(embedded_home: Path):
    folder = embedded_home / "models" / "base" / "smollm2-135m-instruct"
    renderer = Renderer.from_folder(folder)
    prompt = renderer.chat_prompt([Message("user", ASK)])
    assert set(special_ids(renderer, prompt)) == {"<|im_start|>", "<|im_end|>"}
    assert ASK in renderer.decode(prompt)
