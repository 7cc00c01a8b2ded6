"""Tokens become text while they come, and only text that will not change is let through.

Two things can still change: the bytes of a character that is not complete, and text that may
turn out to be the beginning of a stop string or of a tool call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
"""What an incomplete character decodes to; it is held back until the next token."""


class TextDecoder:
    """Turns growing tokens into growing text, decoding a short window instead of all of it.

    The window begins with the tokens of the step before, because some tokenizers write a
    token differently at the beginning of a text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = 0
        """Characters of the window's text that were given out."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; return the text that is now settled."""
        self._window += token_ids
        text = self._decode(self._window)
        settled = text.removesuffix(_REPLACEMENT)
        new = settled[self._given :]
        if settled == text:
            self._window = list(token_ids)
            self._given = len(self._decode(self._window))
        else:
            self._given = max(self._given, len(settled))
        return new

    def finish(self) -> str:
        """Return what was held back: the replacement sign of a character never completed."""
        return self._decode(self._window)[self._given :]


class StopFilter:
    """Ends a text before the stop string that is complete first, wherever the pieces break it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.has_stopped = False

    def push(self, text: str) -> str:
        """Add text; return what is certain to stand before any stop string."""
        if self.has_stopped:
            return ""
        self._held += text
        found = [
            (place + len(stop), place)
            for stop in self._stops
            if (place := self._held.find(stop)) >= 0
        ]
        if found:
            _, place = min(found)
            self.has_stopped = True
            given, self._held = self._held[:place], ""
            return given
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        end = len(self._held) - keep
        given, self._held = self._held[:end], self._held[end:]
        return given

    def finish(self) -> str:
        """Return what was held back; no stop string came of it."""
        given, self._held = self._held, ""
        return given


def overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` could be the beginning of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class AnswerText:
    """The text of one answer: decoded, cut at stop strings, without end tokens."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str],
        end_token_ids: Sequence[int],
    ) -> None:
        self._decoder = TextDecoder(decode)
        self._filter = StopFilter(stops)
        self._end_token_ids = frozenset(end_token_ids)

    @property
    def has_stopped(self) -> bool:
        """Tell whether a stop string was met."""
        return self._filter.has_stopped

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; return the text that is settled."""
        shown = [token for token in token_ids if token not in self._end_token_ids]
        return self._filter.push(self._decoder.push(shown)) if shown else ""

    def finish(self) -> str:
        """Return what was held back, when the answer has ended."""
        return self._filter.push(self._decoder.finish()) + self._filter.finish()
