"""The vocabulary of answers: what a caller wishes, and the pieces an answer comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sintonia.data.token_bytes import TokenText
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
    top_k: int = 0
    """Only so many of the likeliest tokens; 0: all."""
    min_p: float = 0.0
    """Only tokens at least so likely, as a part of the likeliest one's probability."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not shown."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens of the model's own tokenizer and what is added to their logits."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens come with each token; ``None``: no log-probabilities."""
    best_of: int | None = None
    """Answers made to each prompt, of which the ``n`` likeliest are given; ``None``: ``n``."""

    @property
    def num_made(self) -> int:
        """How many answers to each prompt are made."""
        return self.n if self.best_of is None else self.best_of


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
class ScoredToken:
    """A token of an answer's text, or of a prompt, and what the model thought of it."""

    token: TokenText
    logprob: float | None
    """``None`` for the first token of a prompt, which nothing stands before."""
    top: tuple[tuple[TokenText, float], ...] = ()
    """The likeliest tokens in its place, the likeliest first."""
    offset: int = 0
    """How many characters of prompt and answer stand before the one that it begins in."""


@dataclass(frozen=True)
class TextPiece:
    """The next part of an answer's text, settled: it will not be taken back."""

    index: int
    """Which answer, from 0; prompt by prompt when there are several."""
    text: str
    tokens: tuple[ScoredToken, ...] = ()
    """When asked for, the tokens whose text is whole with this piece. Those of all pieces say
    what the text says; one that a stop string cuts is there up to the cut."""


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
    mean_logprob: float | None = None
    """Of all of these tokens, when log-probabilities were asked of the engine."""
    num_cached_tokens: int = 0
    """Tokens of the prompt that the engine had read before."""


Piece = TextPiece | CallsPiece | EndPiece


@dataclass(frozen=True)
class Answer:
    """One whole answer."""

    index: int
    text: str
    tool_calls: tuple[ToolCall, ...]
    reason: StopReason
    num_tokens: int
    tokens: tuple[ScoredToken, ...] = ()
    """Those of its text, when log-probabilities were asked for."""
    mean_logprob: float | None = None
    num_cached_tokens: int = 0


async def whole_answers(pieces: AsyncIterator[Piece]) -> list[Answer]:
    """Wait for all pieces and return the answers in order."""
    kept: dict[int, _Parts] = {}
    async for piece in pieces:
        parts = kept.setdefault(piece.index, _Parts())
        match piece:
            case TextPiece(_, text, tokens):
                parts.texts.append(text)
                parts.tokens.extend(tokens)
            case CallsPiece(_, calls):
                parts.calls = calls
            case EndPiece():
                parts.end = piece
    return [parts.answer(index) for index, parts in sorted(kept.items())]


@dataclass
class _Parts:
    """What has come of one answer."""

    texts: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    calls: tuple[ToolCall, ...] = ()
    end: EndPiece | None = None

    def answer(self, index: int) -> Answer:
        """Return them as one, when the end has come."""
        assert self.end is not None, "pieces end with an end"
        return Answer(
            index=index,
            text="".join(self.texts),
            tool_calls=self.calls,
            reason=self.end.reason,
            num_tokens=self.end.num_tokens,
            tokens=tuple(self.tokens),
            mean_logprob=self.end.mean_logprob,
            num_cached_tokens=self.end.num_cached_tokens,
        )
