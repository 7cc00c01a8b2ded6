"""Text that may be a tool call is held until the answer has ended; then it is parsed as a whole."""

from __future__ import annotations

from collections.abc import Callable

from sintonia.data.renderer import CALL_BEGIN, ParsedMessage
from sintonia.domain.examples import ToolCall
from sintonia.serving.text import overlap


class CallHolder:
    """Lets text through up to the first tool call, with the white space before it held too."""

    def __init__(self, parse: Callable[[str], ParsedMessage], *, allow_parallel: bool) -> None:
        self._parse = parse
        self._allow_parallel = allow_parallel
        self._held = ""
        self._in_call = False

    def push(self, text: str) -> str:
        """Add text; return what is certainly not part of a call."""
        self._held += text
        if self._in_call:
            return ""
        place = self._held.find(CALL_BEGIN)
        self._in_call = place >= 0
        end = place if self._in_call else len(self._held) - overlap(self._held, CALL_BEGIN)
        end = len(self._held[:end].rstrip())
        given, self._held = self._held[:end], self._held[end:]
        return given

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """Return the text still owed and the calls, when the answer has ended."""
        parsed = self._parse(self._held)
        if not parsed.tool_calls:
            return self._held, ()
        calls = parsed.tool_calls if self._allow_parallel else parsed.tool_calls[:1]
        return parsed.text, calls
