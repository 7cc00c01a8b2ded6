"""What chat and completions do alike: begin, then answer at once or as a stream.

A stream is begun before its status is sent, so that a request which fails at once (the queue
is full, the weights do not load) gets an error's status and not a broken stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sintonia.api.schemas.generation import AnswerRequest, Usage
from sintonia.api.schemas.wire import Wire
from sintonia.api.sse import Caller, EventStream, until_gone
from sintonia.api.translate.answers import usage_of
from sintonia.serving.answers import Answer, EndPiece, Piece, whole_answers
from sintonia.serving.generate import Plan

Pieces = AsyncGenerator[Piece, None]


class Chunks(Protocol):
    """How one endpoint writes the chunks of a call."""

    def first(self, index: int) -> list[Wire]:
        """Return the chunks that begin answer ``index``."""
        ...

    def of(self, piece: Piece) -> Wire:
        """Return the chunk of a piece."""
        ...

    def last(self) -> Wire:
        """Return the chunk that carries the usage."""
        ...


async def wait_for_answers(
    caller: Caller, plan: Plan, pieces: Pieces
) -> tuple[list[Answer], Usage]:
    """Return the answers to give and what all of them took.

    Stops making them when the caller goes away.
    """
    answers = await until_gone(caller, whole_answers(pieces))
    return plan.given(answers), usage_of(plan, answers)


@dataclass(frozen=True)
class Stream:
    """A streamed call."""

    plan: Plan
    pieces: Pieces
    chunks: Chunks
    with_usage: bool
    """Whether every chunk has ``usage``, and a last one has the numbers."""

    async def respond(self, caller: Caller, headers: Mapping[str, str]) -> EventStream:
        """Wait for the first piece, then return the response that sends all."""
        first = await until_gone(caller, anext(self.pieces))
        return EventStream(self._values(first), self.pieces, headers)

    async def _values(self, first: Piece) -> AsyncGenerator[Mapping[str, Any], None]:
        ends: list[EndPiece] = []
        for index in range(len(self.plan.requests)):
            for chunk in self.chunks.first(index):
                yield self._value(chunk, None)
        async for piece in _chained(first, self.pieces):
            ends += [piece] if isinstance(piece, EndPiece) else []
            yield self._value(self.chunks.of(piece), None)
        if self.with_usage:
            yield self._value(self.chunks.last(), usage_of(self.plan, ends))

    def _value(self, chunk: Wire, usage: Usage | None) -> dict[str, Any]:
        value = chunk.model_dump(mode="json")
        if self.with_usage:
            value["usage"] = usage and usage.model_dump(mode="json")
        return value


def wants_usage(request: AnswerRequest) -> bool:
    """Tell whether a streamed call is to end with its usage."""
    return request.stream_options is not None and bool(request.stream_options.include_usage)


async def _chained(first: Piece, rest: Pieces) -> AsyncGenerator[Piece, None]:
    yield first
    async for piece in rest:
        yield piece
