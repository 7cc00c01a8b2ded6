"""Chat: a conversation becomes a prompt, and what the model says text and tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from sintonia.data.renderer import Renderer
from sintonia.generation.base import Engine
from sintonia.serving.answers import (
    CallsPiece,
    ChatRequest,
    EndPiece,
    Piece,
    ScoredToken,
    StopReason,
    TextPiece,
)
from sintonia.serving.calls import CallHolder
from sintonia.serving.generate import Plan, answer_pieces, merge, plan
from sintonia.serving.reading import Asked
from sintonia.serving.router import ServedModel
from sintonia.serving.trail import TokenTrail


def plan_chat(call_id: str, served: ServedModel, request: ChatRequest) -> Plan:
    """Return what to ask the engine for. Raises ``InvalidValue`` and ``ContextLengthExceeded``."""
    prompt = served.renderer.chat_prompt(request.messages, request.tools)
    return plan(call_id, served, [prompt], request.wishes, "messages")


def chat_pieces(engine: Engine, plan: Plan, request: ChatRequest) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all answers as they come; close it to stop generating."""
    renderer = plan.served.renderer
    sources = []
    shows_tokens = request.wishes.top_logprobs is not None
    for index, engine_request in enumerate(plan.requests):
        asked = Asked(index, engine_request, renderer, request.wishes.stop, shows_tokens)
        pieces = answer_pieces(engine, asked)
        sources.append(_with_calls(pieces, renderer, request) if request.tools else pieces)
    return merge(sources)


async def _with_calls(
    pieces: AsyncGenerator[Piece, None], renderer: Renderer, request: ChatRequest
) -> AsyncGenerator[Piece, None]:
    """Turn the part of an answer's text that is tool calls into a piece of its own."""
    turner = _CallTurner(CallHolder(renderer.parse, allow_parallel=request.allow_parallel_calls))
    try:
        async for piece in pieces:
            for turned in turner.turn(piece):
                yield turned
    finally:
        await pieces.aclose()


class _CallTurner:
    """Turns the pieces of one answer; the tokens of its calls are not told."""

    def __init__(self, holder: CallHolder) -> None:
        self._holder = holder
        self._trail = TokenTrail()

    def turn(self, piece: Piece) -> list[Piece]:
        """Return what a piece becomes."""
        match piece:
            case TextPiece(index, text, tokens):
                self._trail.push(tokens)
                given = self._holder.push(text)
                return _text(index, given, self._trail.take(len(given)))
            case EndPiece():
                return self._end(piece)
            case CallsPiece():
                return [piece]

    def _end(self, end: EndPiece) -> list[Piece]:
        rest, calls = self._holder.finish()
        if not calls:
            tokens = self._trail.take(len(rest)) + self._trail.finish()
            return [*_text(end.index, rest, tokens), end]
        # Text behind a call comes without its tokens: what stood between them is gone.
        owed = _text(end.index, rest, self._trail.finish())
        # Cut off by the length limit stays "length": the last call may be missing.
        reason = StopReason.TOOL_CALLS if end.reason is StopReason.STOP else end.reason
        return [*owed, CallsPiece(end.index, calls), replace(end, reason=reason)]


def _text(index: int, text: str, tokens: tuple[ScoredToken, ...]) -> list[Piece]:
    return [TextPiece(index, text, tokens)] if text or tokens else []
