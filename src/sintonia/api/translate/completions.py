"""Raw completions: wire to prompts, answers to wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sintonia.api.schemas.completions import Completion, CompletionChoice, CompletionParams
from sintonia.api.schemas.generation import Usage
from sintonia.api.schemas.wire import Wire
from sintonia.api.translate.answers import Call
from sintonia.api.translate.parameters import wishes_of
from sintonia.errors import InvalidValue, UnsupportedParameter
from sintonia.serving.answers import Answer, CompletionRequest, EndPiece, Piece, TextPiece

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, of this endpoint."""


def completion_request(params: CompletionParams) -> CompletionRequest:
    """Return the prompts to continue. Raises ``InvalidRequest``, one of its kinds."""
    wishes = wishes_of(params, _max_tokens(params))
    if params.best_of is not None and params.best_of != wishes.n:
        raise UnsupportedParameter(
            f"Parameter best_of={params.best_of}: choosing among more answers than are returned "
            f"is not available here yet. Leave it out or give n, {wishes.n}.",
            param="best_of",
        )
    return CompletionRequest(prompts=_prompts(params.prompt), echo=bool(params.echo), wishes=wishes)


def completion(call: Call, answers: Sequence[Answer], usage: Usage) -> Completion:
    """Return whole answers as the wire shows them."""
    choices = [
        CompletionChoice(text=a.text, index=a.index, finish_reason=a.reason.value) for a in answers
    ]
    return _completion(call, choices, usage)


@dataclass(frozen=True)
class CompletionChunks:
    """The chunks of one streamed call."""

    call: Call

    def first(self, _index: int) -> list[Wire]:
        """Return nothing: the first chunk of an answer has text already."""
        return []

    def of(self, piece: Piece) -> Wire:
        """Return a piece of an answer as a chunk."""
        match piece:
            case TextPiece(index, text):
                choice = CompletionChoice(text=text, index=index, finish_reason=None)
            case EndPiece(index, reason):
                choice = CompletionChoice(text="", index=index, finish_reason=reason.value)
            case _:
                raise AssertionError("a raw completion calls no tools")
        return _completion(self.call, [choice], None)

    def last(self) -> Wire:
        """Return the chunk without answers that carries the usage."""
        return _completion(self.call, [], None)


def _completion(call: Call, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
    return Completion(
        id=call.id,
        created=call.created,
        model=call.model,
        choices=choices,
        usage=usage,
        system_fingerprint=call.system_fingerprint,
    )


def _max_tokens(params: CompletionParams) -> int:
    max_tokens = DEFAULT_MAX_TOKENS if params.max_tokens is None else params.max_tokens
    if max_tokens == 0 and not params.echo:
        raise InvalidValue(
            "Invalid 'max_tokens': 0 makes nothing. Give at least 1, or set echo to get the "
            "prompt back.",
            param="max_tokens",
        )
    return max_tokens


def _prompts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(prompt),)
    return tuple(one if isinstance(one, str) else tuple(one) for one in prompt)
