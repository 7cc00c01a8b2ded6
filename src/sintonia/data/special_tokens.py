"""A tokenizer's special tokens: which of them texts may name, and how those are encoded.

Invariant: a text never becomes a special token. The tokens that the template itself writes, and
those that end a turn, are refused in texts; any other is encoded as the plain characters that it
is made of, in training and in serving alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cached_property

from tokenizers import Tokenizer

from sintonia.errors import InvalidValue


class SpecialTokens:
    """The special tokens of one tokenizer, and its encoding of texts that may name them."""

    def __init__(self, tokenizer_json: bytes, ends: Iterable[str]) -> None:
        """``ends`` are the tokens that begin and end texts; they count as the template's own."""
        self.tokenizer = Tokenizer.from_buffer(tokenizer_json)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._json = tokenizer_json
        added = self.tokenizer.get_added_tokens_decoder().values()
        around = self.tokenizer.encode("", add_special_tokens=True).tokens
        self._special = {str(token.content) for token in added if token.special}
        self._structure = {end for end in ends if end} | set(around)
        self._named = _any_of(self._special | self._structure)
        self._refused = self._named
        self._harmless: re.Pattern[str] | None = None

    def learn_structure(self, written: Callable[[], Iterable[str]]) -> None:
        """Tell harmless tokens from those in ``written``: all that the template can write.

        Until then every special token counts as the template's own.
        """
        unknown = self._special - self._structure
        if not unknown:
            return
        texts = list(written())
        self._structure |= {token for token in unknown if any(token in text for text in texts)}
        self._refused = _any_of(self._structure)
        harmless = self._special - self._structure
        self._harmless = _any_of(harmless) if harmless else None

    def refuse_in(self, text: str, param: str) -> None:
        """Raise ``InvalidValue`` for a text that names one of the template's own tokens."""
        found = self._refused.search(text)
        if found:
            raise InvalidValue(f"message contains an invalid token: {found[0]}.", param=param)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the tokens of ``text``, in which only the template's own are special.

        Raises ``InvalidValue`` when the tokenizer has no other way to write a harmless one.
        """
        named = self._harmless.search(text) if self._harmless else None
        tokenizer = self._plain if named else self.tokenizer
        encoded = list(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        if named and not self._harmless_ids.isdisjoint(encoded):
            raise InvalidValue(f"message contains an invalid token: {named[0]}.", param="messages")
        return encoded

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer with all but the template's own tokens taken for plain characters.

        ``encode_special_tokens`` passes over tokens that are marked special; those of the
        template lose the mark here, by which they are recognised still.
        """
        facts = json.loads(self._json)
        for token in facts["added_tokens"]:
            token["special"] = token["special"] and token["content"] not in self._structure
        plain = Tokenizer.from_buffer(json.dumps(facts).encode())
        plain.no_padding()
        plain.no_truncation()
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _harmless_ids(self) -> set[int]:
        added = self.tokenizer.get_added_tokens_decoder().items()
        return {
            number
            for number, token in added
            if token.special and token.content not in self._structure
        }


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")
