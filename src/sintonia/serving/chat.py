"""Chat: a conversation becomes a prompt, and what the model says text and tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sintonia.data.renderer import Renderer
from sintonia.generation.base import Engine
from sintonia.serving.answers import (
    CallsPiece,
    ChatRequest,
    EndPiece,
    Piece,
    StopReason,
    TextPiece,
)
from sintonia.serving.calls import CallHolder
from sintonia.serving.generate import Plan, answer_pieces, merge, plan
from sintonia.serving.router import ServedModel


def plan_chat(call_id: str, served: ServedModel, request: ChatRequest) -> Plan:
    """Return what to ask the engine for. Raises ``InvalidValue`` and ``ContextLengthExceeded``."""
    prompt = served.renderer.chat_prompt(request.messages, request.tools)
    return plan(call_id, served, [prompt], request.wishes, "messages")


def chat_pieces(engine: Engine, plan: Plan, request: ChatRequest) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all answers as they come; close it to stop generating."""
    renderer = plan.served.renderer
    sources = []
    for index, engine_request in enumerate(plan.requests):
        pieces = answer_pieces(engine, engine_request, index, renderer, request.wishes.stop)
        sources.append(_with_calls(pieces, renderer, request) if request.tools else pieces)
    return merge(sources)


async def _with_calls(
    pieces: AsyncGenerator[Piece, None], renderer: Renderer, request: ChatRequest
) -> AsyncGenerator[Piece, None]:
    """Turn the part of an answer's text that is tool calls into a piece of its own."""
    holder = CallHolder(renderer.parse, allow_parallel=request.allow_parallel_calls)
    try:
        async for piece in pieces:
            for turned in _turn(piece, holder):
                yield turned
    finally:
        await pieces.aclose()


def _turn(piece: Piece, holder: CallHolder) -> list[Piece]:
    match piece:
        case TextPiece(index, text):
            given = holder.push(text)
            return [TextPiece(index, given)] if given else []
        case EndPiece(index, reason, num_tokens):
            rest, calls = holder.finish()
            owed: list[Piece] = [TextPiece(index, rest)] if rest else []
            if not calls:
                return [*owed, piece]
            # Cut off by the length limit stays "length": the last call may be missing.
            why = StopReason.TOOL_CALLS if reason is StopReason.STOP else reason
            return [*owed, CallsPiece(index, calls), EndPiece(index, why, num_tokens)]
        case CallsPiece():
            return [piece]
