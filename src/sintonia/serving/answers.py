"""The vocabulary of answers: what a caller wishes, and the pieces an answer comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sintonia.domain.examples import Message, ToolCall


@dataclass(frozen=True)
class Wishes:
    """How answers are to be made; the same for chat and completions."""

    n: int = 1
    """How many answers to each prompt."""
    max_tokens: int | None = None
    """``None``: as many as fit the context after the prompt."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not shown."""


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to answer."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    allow_parallel_calls: bool = True
    """When false, at most the first tool call of an answer is given."""
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True)
class CompletionRequest:
    """Raw prompts to continue: texts, or tokens of the model's own tokenizer."""

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool = False
    """Whether an answer begins with its prompt."""
    wishes: Wishes = field(default_factory=Wishes)


class StopReason(StrEnum):
    """Why an answer ended; OpenAI's names."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class TextPiece:
    """The next part of an answer's text, settled: it will not be taken back."""

    index: int
    """Which answer, from 0; prompt by prompt when there are several."""
    text: str


@dataclass(frozen=True)
class CallsPiece:
    """The tool calls of an answer; they come once, whole, before its end."""

    index: int
    calls: tuple[ToolCall, ...]


@dataclass(frozen=True)
class EndPiece:
    """The end of an answer."""

    index: int
    reason: StopReason
    num_tokens: int
    """Tokens that the model made for it, the end token included."""


Piece = TextPiece | CallsPiece | EndPiece


@dataclass(frozen=True)
class Answer:
    """One whole answer."""

    index: int
    text: str
    tool_calls: tuple[ToolCall, ...]
    reason: StopReason
    num_tokens: int


async def whole_answers(pieces: AsyncIterator[Piece]) -> list[Answer]:
    """Wait for all pieces and return the answers in order."""
    texts: dict[int, list[str]] = {}
    calls: dict[int, tuple[ToolCall, ...]] = {}
    ends: dict[int, EndPiece] = {}
    async for piece in pieces:
        match piece:
            case TextPiece(index, text):
                texts.setdefault(index, []).append(text)
            case CallsPiece(index, of_answer):
                calls[index] = of_answer
            case EndPiece():
                ends[piece.index] = piece
    return [
        Answer(
            index, "".join(texts.get(index, ())), calls.get(index, ()), end.reason, end.num_tokens
        )
        for index, end in sorted(ends.items())
    ]
