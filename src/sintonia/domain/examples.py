"""Training examples: what a row of a data file means, free of any chat format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant wants called."""

    id: str
    name: str
    arguments: str
    """A JSON object as text, exactly as the model wrote it."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``content`` has its text parts joined."""

    role: str
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    weight: float | None = None
    """Assistant only: 0 is not learned, 1 is; ``None`` means 1."""

    @property
    def is_learned(self) -> bool:
        """Tell whether training learns this message."""
        return self.role == "assistant" and self.weight != 0


@dataclass(frozen=True)
class ChatExample:
    """A conversation whose assistant turns are learned."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """OpenAI's function tools: ``{"type": "function", "function": {...}}``."""


@dataclass(frozen=True)
class CompletionExample:
    """A raw prompt and the completion that is learned after it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class PreferenceExample:
    """A conversation and two answers to it, of which one is preferred."""

    messages: tuple[Message, ...]
    preferred: Message
    non_preferred: Message
    tools: tuple[Mapping[str, Any], ...] = ()
    """As of :class:`ChatExample`."""


Example = ChatExample | CompletionExample | PreferenceExample
