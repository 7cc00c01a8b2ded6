"""The tokens behind a text that is let through piece by piece.

Invariant: whatever part of the text is shown, the tokens given out for it say that part and no
more: their bytes, joined, are its UTF-8.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sintonia.data.token_bytes import TokenText
from sintonia.serving.answers import ScoredToken

_Utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True)
class _Step:
    """A token and the characters, counted from the text's beginning, that it has a part in."""

    token: ScoredToken
    begin: int
    end: int
    text: str
    """The characters that are complete with it."""
    carried: int
    """Bytes of its first character that tokens before it have."""


class TokenTrail:
    """Gives out tokens as their text is shown; the text must be shown from its beginning on."""

    def __init__(self, first_offset: int = 0) -> None:
        """``first_offset`` is how many characters stand before the text."""
        self._first_offset = first_offset
        self._decoder = _Utf8("replace")
        self._waiting: deque[_Step] = deque()
        self._length = 0
        self._shown = 0

    def push(self, tokens: Iterable[ScoredToken]) -> None:
        """Add the next tokens of the text; those that do not show in it are left out."""
        for token in tokens:
            if token.token.bytes is not None:
                self._waiting.append(self._step(token, token.token.bytes))

    def take(self, num_characters: int) -> tuple[ScoredToken, ...]:
        """Return the tokens that are whole once ``num_characters`` more are shown."""
        self._shown += num_characters
        taken = []
        while self._waiting and self._waiting[0].end <= self._shown:
            taken.append(self._waiting.popleft().token)
        return tuple(taken)

    def finish(self) -> tuple[ScoredToken, ...]:
        """Return the tokens of what was shown that are still owed; the last may be cut."""
        owed = [step for step in self._waiting if step.begin < self._shown]
        self._waiting.clear()
        return tuple(self._cut(step) for step in owed)

    def _step(self, token: ScoredToken, value: bytes) -> _Step:
        carried = len(self._decoder.getstate()[0])
        begin, text = self._length, self._decoder.decode(value)
        self._length += len(text)
        is_open = bool(self._decoder.getstate()[0])
        placed = replace(token, offset=self._first_offset + begin)
        return _Step(placed, begin, self._length + is_open, text, carried)

    def _cut(self, step: _Step) -> ScoredToken:
        value = step.token.token.bytes or b""
        if step.end <= self._shown:
            return step.token
        shown = step.text[: self._shown - step.begin]
        cut = value[: len(shown.encode()) - step.carried]
        return replace(step.token, token=TokenText(step.token.token.name, cut))


def placed(tokens: Sequence[ScoredToken]) -> tuple[ScoredToken, ...]:
    """Return all tokens of a text with their offsets, also those that do not show in it."""
    decoder, length = _Utf8("replace"), 0
    found = []
    for token in tokens:
        found.append(replace(token, offset=length))
        length += len(decoder.decode(token.token.bytes or b""))
    return tuple(found)
