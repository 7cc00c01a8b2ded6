"""Chat: wire to conversation, answers to wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sintonia.api.schemas.chat import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatCompletionRequest,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FunctionObject,
    ToolCallObject,
)
from sintonia.api.schemas.generation import Usage
from sintonia.api.schemas.wire import Wire
from sintonia.api.translate.answers import Call
from sintonia.api.translate.logprobs import chat_logprobs
from sintonia.api.translate.messages import conversation
from sintonia.api.translate.parameters import unsupported, wishes_of
from sintonia.domain.examples import ToolCall
from sintonia.errors import InvalidRequest, InvalidValue
from sintonia.serving.answers import (
    Answer,
    CallsPiece,
    ChatRequest,
    EndPiece,
    Piece,
    ScoredToken,
    StopReason,
    TextPiece,
)

_TOOL_CHOICES = ("auto", "none")


def chat_request(request: ChatCompletionRequest, body: Mapping[str, Any]) -> ChatRequest:
    """Return the conversation to answer. Raises ``InvalidRequest``, one of its kinds.

    The checked tools are taken from ``body`` as they were sent: the order of their keys shows
    in the prompt, which must be the one that training saw.
    """
    return ChatRequest(
        messages=conversation(request.messages),
        tools=_tools(request, body),
        allow_parallel_calls=request.parallel_tool_calls is not False and not request.functions,
        wishes=wishes_of(request, _max_tokens(request), _top_logprobs(request)),
    )


@dataclass(frozen=True)
class ChatShape:
    """What of an answer's shape the request decides."""

    with_logprobs: bool = False
    with_functions: bool = False
    """Whether a call is a ``function_call``, as the deprecated ``functions`` ask for."""

    @classmethod
    def of(cls, request: ChatCompletionRequest) -> ChatShape:
        """Return the shape that ``request`` asks for."""
        return cls(bool(request.logprobs), bool(request.functions))

    def reason(self, reason: StopReason) -> str:
        """Return a reason to end in the request's own spelling."""
        is_function = self.with_functions and reason is StopReason.TOOL_CALLS
        return "function_call" if is_function else reason.value

    def calls(self, calls: Sequence[ToolCall], *, in_chunk: bool = False) -> dict[str, Any]:
        """Return the key of a message, or of what a chunk adds to it, that has its calls."""
        if not calls:
            return {}
        if self.with_functions:
            return {"function_call": _function(calls[0])}
        places = range(len(calls)) if in_chunk else [None] * len(calls)
        return {"tool_calls": [_call(made, p) for made, p in zip(calls, places, strict=True)]}

    def logprobs(self, tokens: Sequence[ScoredToken]) -> ChoiceLogprobs | None:
        """Return the log-probabilities of a text, when they were asked for."""
        return chat_logprobs(tokens) if self.with_logprobs else None


def chat_completion(
    call: Call, answers: Sequence[Answer], usage: Usage, shape: ChatShape
) -> ChatCompletion:
    """Return whole answers as the wire shows them."""
    return ChatCompletion(
        id=call.id,
        created=call.created,
        model=call.model,
        choices=[_choice(answer, shape) for answer in answers],
        usage=usage,
        system_fingerprint=call.system_fingerprint,
    )


@dataclass(frozen=True)
class ChatChunks:
    """The chunks of one streamed call."""

    call: Call
    shape: ChatShape

    def first(self, index: int) -> list[Wire]:
        """Return the chunks that begin an answer."""
        return [self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))]

    def of(self, piece: Piece) -> Wire:
        """Return a piece of an answer as a chunk."""
        match piece:
            case TextPiece(index, text, tokens):
                logprobs, delta = self.shape.logprobs(tokens), Delta(content=text)
                return self._chunk(ChunkChoice(index=index, delta=delta, logprobs=logprobs))
            case CallsPiece(index, calls):
                delta = Delta(**self.shape.calls(calls, in_chunk=True))
                return self._chunk(ChunkChoice(index=index, delta=delta))
            case EndPiece(index, reason):
                end = self.shape.reason(reason)
                return self._chunk(ChunkChoice(index=index, delta=Delta(), finish_reason=end))

    def last(self) -> Wire:
        """Return the chunk without answers that carries the usage."""
        return self._chunk()

    def _chunk(self, *choices: ChunkChoice) -> ChatChunk:
        return ChatChunk(
            id=self.call.id,
            created=self.call.created,
            model=self.call.model,
            choices=list(choices),
            system_fingerprint=self.call.system_fingerprint,
        )


def _choice(answer: Answer, shape: ChatShape) -> ChatChoice:
    content = answer.text if answer.text or not answer.tool_calls else None
    return ChatChoice(
        index=answer.index,
        message=AnswerMessage(content=content, **shape.calls(answer.tool_calls)),
        logprobs=shape.logprobs(answer.tokens),
        finish_reason=shape.reason(answer.reason),
    )


def _call(made: ToolCall, index: int | None) -> ToolCallObject:
    return ToolCallObject(index=index, id=made.id, function=_function(made))


def _function(made: ToolCall) -> FunctionObject:
    return FunctionObject(name=made.name, arguments=made.arguments)


def _tools(
    request: ChatCompletionRequest, body: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ...]:
    """Return the tools that may be called, in today's spelling."""
    if request.tools and request.functions:
        raise InvalidValue(
            "Parameters tools and functions are both given; functions is deprecated. "
            "Give tools only.",
            param="functions",
        )
    choices = {"tool_choice": request.tool_choice, "function_call": request.function_call}
    for name, choice in choices.items():
        if choice is not None and choice not in _TOOL_CHOICES:
            raise unsupported(name, choice, _TOOL_CHOICES)
    functions = [tool["function"] for tool in body["tools"]] if request.tools else []
    choice = request.tool_choice
    if request.functions:
        functions, choice = body["functions"], request.function_call
    if choice == "none":
        return ()
    return tuple({"type": "function", "function": function} for function in functions)


def idle_parameters(request: ChatCompletionRequest) -> tuple[str, ...]:
    """Return those of chat that have a field of their own, were given and do nothing."""
    functions = [tool.function for tool in request.tools or ()]
    idle = {
        "metadata": request.metadata is not None and not request.store,
        "tools.function.strict": any(function.strict for function in functions),
        "functions.strict": any(function.strict for function in request.functions or ()),
    }
    return tuple(name for name, is_idle in idle.items() if is_idle)


def _top_logprobs(request: ChatCompletionRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise InvalidRequest(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            param="top_logprobs",
        )
    return None


def _max_tokens(request: ChatCompletionRequest) -> int | None:
    new, old = request.max_completion_tokens, request.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidValue(
            "Parameters max_tokens and max_completion_tokens disagree. Give the second only.",
            param="max_tokens",
        )
    return old if new is None else new
