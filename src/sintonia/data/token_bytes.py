"""The exact bytes that each token of a tokenizer stands for.

Invariant: the bytes of a text's tokens, joined, are the text as the tokenizer decodes it, also
where a character's bytes are split over tokens, which no token's own text can say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

_ANCHOR = "a"
"""Some ordinary text, to see how a decoder writes a token that does not begin a text."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class TokenText:
    """A token as it shows in a text."""

    name: str
    """How the vocabulary writes it; the text of special tokens, which show in none."""
    bytes: bytes | None
    """A fragment of UTF-8; ``None`` for a token that decoding leaves out."""


class TokenBytes:
    """The bytes of the tokens of one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_json: bytes) -> None:
        self._tokenizer = tokenizer
        self._json = tokenizer_json
        added = tokenizer.get_added_tokens_decoder().items()
        self._left_out = {number for number, token in added if token.special}
        self._known: dict[tuple[int, bool], TokenText] = {}

    def of(self, token_id: int, *, is_first: bool = False) -> TokenText:
        """Return the text of a token; some tokenizers write the first of a text differently."""
        key = (token_id, is_first and not self._is_byte_level)
        if key not in self._known:
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, token_id: int, is_first: bool) -> TokenText:
        name = self._tokenizer.id_to_token(token_id)
        if name is None:  # a model's vocabulary may be padded beyond its tokenizer's
            return TokenText("", None)
        if token_id in self._left_out:
            return TokenText(name, None)
        if self._is_byte_level:
            return TokenText(name, _byte_level(name))
        return TokenText(name, self._decoded(name, is_first=is_first))

    def _decoded(self, name: str, *, is_first: bool) -> bytes:
        """Ask the tokenizer's decoder, which knows its own way of writing spaces."""
        single = _BYTE_TOKEN.fullmatch(name)
        if single and "ByteFallback" in self._decoder_types:
            return bytes([int(single[1], 16)])
        if is_first:
            return self._join([name]).encode()
        return self._join([_ANCHOR, name]).removeprefix(self._join([_ANCHOR])).encode()

    def _join(self, names: list[str]) -> str:
        decoder = self._tokenizer.decoder
        return str(decoder.decode(names)) if decoder is not None else " ".join(names)

    @cached_property
    def _is_byte_level(self) -> bool:
        return set(self._decoder_types) - {"Sequence"} == {"ByteLevel"}

    @cached_property
    def _decoder_types(self) -> tuple[str, ...]:
        return tuple(_types(json.loads(self._json).get("decoder") or {}))


def _types(decoder: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of a decoder and of those that it is made of."""
    yield str(decoder.get("type"))
    for part in decoder.get("decoders", ()):
        yield from _types(part)


def _byte_level(name: str) -> bytes:
    """Return the bytes that byte-level BPE writes as ``name``: a visible character for each.

    An added token may hold other characters; decoding then takes all of them as they are.
    """
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in name)
    except KeyError:
        return name.encode()


def _visible_bytes() -> Mapping[str, int]:
    """Return GPT-2's alphabet.

    The printable characters of Latin-1 stand for themselves, and those from U+0100 on, in order,
    for the other bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _visible_bytes()
