"""The bytes of tokens, joined, are the text that the tokenizer decodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.data.token_bytes import TokenBytes

TEXTS = [
    "Olá! Amanhã há pão, café, açúcar e maçãs em São João del-Rei.",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e 🇧🇷 juntos",
    "tab\tnova\nlinha  dois espaços",
    "数字と漢字、кириллица, עברית",
]


def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    return TokenBytes(tokenizer, tokenizer.to_str().encode())


def joined(texts: TokenBytes, ids) -> bytes:
    return b"".join(
        texts.of(token_id, is_first=place == 0).bytes or b"" for place, token_id in enumerate(ids)
    )


@pytest.fixture(scope="module")
def embedded(embedded_home) -> Renderer:
    base = Library(embedded_home, catalog.load()).find("smollm2-135m-instruct")
    return Renderer.from_folder(Path(base.ref.folder))


@given(text=st.text(max_size=60))
def test_the_bytes_of_any_text_are_its_utf8(tiny_tokenizer_json, text):
    tokenizer = Tokenizer.from_str(tiny_tokenizer_json)
    ids = tokenizer.encode(text).ids
    assert joined(token_bytes(tokenizer), ids) == tokenizer.decode(ids).encode()


@pytest.mark.parametrize("text", TEXTS)
def test_accents_and_emoji_split_over_tokens_of_the_embedded_model_join(embedded, text):
    ids = embedded.completion_prompt(text)
    fragments = [embedded.token_text(token_id).bytes for token_id in ids]
    assert b"".join(fragments) == text.encode()


def test_every_token_of_the_embedded_model_has_the_bytes_that_decoding_shows(embedded):
    special = []
    for token_id in range(embedded.num_tokens):
        text, decoded = embedded.token_text(token_id), embedded.decode([token_id])
        if text.bytes is None:
            special.append(text.name)
            assert decoded == ""
            continue
        assert text.bytes.decode(errors="replace") == decoded, text
    assert "<|im_end|>" in special
    assert len(special) == 17


def test_a_text_of_every_token_of_the_embedded_model_joins(embedded):
    ids = list(range(embedded.num_tokens))
    whole = b"".join(embedded.token_text(token_id).bytes or b"" for token_id in ids)
    assert whole.decode(errors="replace") == embedded.decode(ids)


def test_fragments_of_a_character_are_told_apart(embedded):
    fragments = [embedded.token_text(i).bytes for i in embedded.completion_prompt("🦥")]
    assert len(fragments) > 1
    assert b"".join(fragments) == "🦥".encode()


def sentencepiece_like() -> Tokenizer:
    """Spaces as a sign before words, unknown bytes as tokens of their own, as Llama's."""
    words = ["<unk>", "▁olá", "▁mundo", "▁", "mar", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return tokenizer


def test_a_decoder_that_strips_the_first_space_and_falls_back_to_bytes_joins():
    tokenizer = sentencepiece_like()
    texts = token_bytes(tokenizer)
    words = ["▁olá", "▁mundo", "▁", *(f"<0x{byte:02X}>" for byte in "🙂".encode()), "mar"]
    ids = [tokenizer.token_to_id(word) for word in words]
    assert joined(texts, ids).decode() == tokenizer.decode(ids) == "olá mundo 🙂mar"
    assert texts.of(tokenizer.token_to_id("<s>")).bytes is None
    assert texts.of(tokenizer.token_to_id("<0xF0>")).bytes == b"\xf0"


def test_pieces_of_words_join():
    vocabulary = {"[UNK]": 0, "amanh": 1, "##ã": 2, "bom": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    assert joined(token_bytes(tokenizer), [3, 1, 2]).decode() == tokenizer.decode([3, 1, 2])


def test_ids_beyond_the_tokenizer_have_no_text(tiny_tokenizer_json):
    texts = token_bytes(Tokenizer.from_str(tiny_tokenizer_json))
    assert texts.of(100_000).bytes is None


def test_a_byte_level_decoder_in_a_sequence_is_seen(tiny_tokenizer_json):
    facts = json.loads(tiny_tokenizer_json)
    facts["decoder"] = {"type": "Sequence", "decoders": [facts["decoder"]]}
    tokenizer = Tokenizer.from_str(json.dumps(facts))
    ids = tokenizer.encode("é🙂").ids
    assert joined(token_bytes(tokenizer), ids) == "é🙂".encode()
