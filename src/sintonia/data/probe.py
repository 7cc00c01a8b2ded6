"""Whether a chat template shows what it is given, asked with probes.

A template that knows no tools does not say so: it writes the conversation without them. So a
conversation of the same shape, each of its texts replaced by a word that occurs nowhere else,
is rendered first, and every word must come out. Looking for the real texts instead would miss
one that stands elsewhere by chance, and refuse those that a template escapes or trims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sintonia.domain.examples import ROLES, Message, ToolCall
from sintonia.errors import InvalidValue


@dataclass(frozen=True)
class MessageShape:
    """What of a message decides how a template treats it."""

    role: str
    has_content: bool
    num_calls: int


@dataclass(frozen=True)
class Shape:
    """What of a conversation decides how a template treats it."""

    messages: tuple[MessageShape, ...]
    num_tools: int


def shape_of(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Shape:
    """Return the shape of a conversation."""
    shapes = (MessageShape(m.role, bool(m.content), len(m.tool_calls)) for m in messages)
    return Shape(tuple(shapes), len(tools))


def role_shapes() -> list[Shape]:
    """Return shapes of short conversations in which every role occurs, with and without tools."""
    user, called = MessageShape("user", True, 0), MessageShape("assistant", False, 1)
    conversations = [
        *((MessageShape(role, True, 0),) for role in ROLES),
        *((user, MessageShape(role, True, 0)) for role in ROLES),
        (MessageShape("system", True, 0), user, MessageShape("assistant", True, 0), user),
        (user, called, MessageShape("tool", True, 0)),
    ]
    return [Shape(messages, num_tools) for messages in conversations for num_tools in (0, 1)]


class Probe:
    """A conversation of a shape whose texts are words of its own."""

    def __init__(self, shape: Shape) -> None:
        self._words: dict[int, list[str]] = {}
        self.messages = [self._message(place, m) for place, m in enumerate(shape.messages)]
        self._tool_words = [_word("tool", number) for number in range(shape.num_tools)]
        self.tools = [_tool(word) for word in self._tool_words]

    def check_tools(self, rendered: str) -> None:
        """Raise ``InvalidValue`` unless every tool shows in ``rendered``."""
        if not all(word in rendered for word in self._tool_words):
            raise InvalidValue("the model's chat template leaves out the tools", param="tools")

    def check_messages(self, rendered: str, places: Iterable[int]) -> None:
        """Raise ``InvalidValue`` unless all of the messages at ``places`` shows."""
        for place in places:
            if not all(word in rendered for word in self._words[place]):
                raise InvalidValue(
                    f"the model's chat template leaves out a part of message {place + 1} "
                    f"(role {self.messages[place].role})",
                    param=f"messages[{place}]",
                )

    def _message(self, place: int, shape: MessageShape) -> Message:
        content = _word("text", place)
        calls = tuple(_call(place, number) for number in range(shape.num_calls))
        words = [content] if shape.has_content else []
        for number in range(shape.num_calls):
            words += [_word("call", place, number), _word("argument", place, number)]
        self._words[place] = words
        return Message(
            role=shape.role,
            content=content if shape.has_content else None,
            tool_calls=calls,
            tool_call_id=_CALL_ID if shape.role == "tool" else None,
        )


_CALL_ID = "probe0001"
"""Nine letters and digits, the form that the strictest templates ask for."""


def _word(kind: str, *numbers: int) -> str:
    """Return a word of letters only, so that no template escapes or splits it."""
    spelled = ("".join("abcdefghij"[int(digit)] for digit in str(n)) for n in numbers)
    return f"zq{kind}x{'x'.join(spelled)}qz"


def _call(place: int, number: int) -> ToolCall:
    argument = _word("argument", place, number)
    return ToolCall(_CALL_ID, _word("call", place, number), f'{{"key": "{argument}"}}')


def _tool(word: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"key": {"type": "string"}}}
    function = {"name": word, "description": "A probe.", "parameters": parameters}
    return {"type": "function", "function": function}
