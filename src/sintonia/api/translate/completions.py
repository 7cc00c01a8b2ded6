"""Raw completions: wire to prompts, answers to wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sintonia.api.schemas.completions import Completion, CompletionChoice, CompletionParams
from sintonia.api.schemas.generation import Usage
from sintonia.api.schemas.wire import Wire
from sintonia.api.translate.answers import Call
from sintonia.api.translate.logprobs import completion_logprobs
from sintonia.api.translate.parameters import wishes_of
from sintonia.errors import InvalidRequest, InvalidValue
from sintonia.serving.answers import Answer, CompletionRequest, EndPiece, Piece, TextPiece

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, of this endpoint."""


def completion_request(params: CompletionParams) -> CompletionRequest:
    """Return the prompts to continue. Raises ``InvalidRequest``, one of its kinds."""
    max_tokens = DEFAULT_MAX_TOKENS if params.max_tokens is None else params.max_tokens
    wishes = wishes_of(params, max_tokens, params.logprobs)
    best_of = wishes.n if params.best_of is None else params.best_of
    _check_best_of(params, wishes.n, best_of)
    return CompletionRequest(
        prompts=_prompts(params.prompt),
        echo=bool(params.echo),
        wishes=replace(wishes, best_of=best_of),
    )


def completion(
    call: Call, answers: Sequence[Answer], usage: Usage, *, with_logprobs: bool
) -> Completion:
    """Return whole answers as the wire shows them."""
    choices = [
        CompletionChoice(
            text=answer.text,
            index=answer.index,
            logprobs=completion_logprobs(answer.tokens) if with_logprobs else None,
            finish_reason=answer.reason.value,
        )
        for answer in answers
    ]
    return _completion(call, choices, usage)


@dataclass(frozen=True)
class CompletionChunks:
    """The chunks of one streamed call."""

    call: Call
    with_logprobs: bool

    def first(self, _index: int) -> list[Wire]:
        """Return nothing: the first chunk of an answer has text already."""
        return []

    def of(self, piece: Piece) -> Wire:
        """Return a piece of an answer as a chunk."""
        match piece:
            case TextPiece(index, text, tokens):
                logprobs = completion_logprobs(tokens) if self.with_logprobs else None
                choice = CompletionChoice(
                    text=text, index=index, logprobs=logprobs, finish_reason=None
                )
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


def _check_best_of(params: CompletionParams, n: int, best_of: int) -> None:
    if best_of < n:
        raise InvalidRequest(
            "You requested that the server return more choices than it will generate (HINT: you "
            f"must set 'n' (currently {n}) to be at most 'best_of' (currently {best_of}), or omit "
            "either parameter if you don't specifically want to use them.)",
            param="best_of",
        )
    if params.stream and best_of > n:
        raise InvalidValue(
            f"Invalid 'best_of': with {best_of} the answers are chosen when all are whole, so "
            f"they cannot be streamed. Leave out stream, or give best_of the value of n, {n}.",
            param="best_of",
        )


def _prompts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    if prompt is None:
        return ("",)
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(prompt),)
    return tuple(one if isinstance(one, str) else tuple(one) for one in prompt)
