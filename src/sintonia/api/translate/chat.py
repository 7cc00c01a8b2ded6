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
    ChunkChoice,
    Delta,
    FunctionObject,
    MessageParam,
    TextPart,
    ToolCallObject,
)
from sintonia.api.schemas.generation import Usage
from sintonia.api.schemas.wire import Wire
from sintonia.api.translate.answers import Call
from sintonia.api.translate.parameters import unsupported, wishes_of
from sintonia.domain.examples import Message, ToolCall
from sintonia.errors import InvalidRequest, InvalidValue, UnsupportedParameter
from sintonia.serving.answers import (
    Answer,
    CallsPiece,
    ChatRequest,
    EndPiece,
    Piece,
    TextPiece,
)

_TOOL_CHOICES = ("auto", "none")


def chat_request(request: ChatCompletionRequest, body: Mapping[str, Any]) -> ChatRequest:
    """Return the conversation to answer. Raises ``InvalidRequest``, one of its kinds.

    The checked tools are taken from ``body`` as they were sent: the order of their keys shows
    in the prompt, which must be the one that training saw.
    """
    choice = request.tool_choice
    if choice is not None and choice not in _TOOL_CHOICES:
        raise unsupported("tool_choice", choice, _TOOL_CHOICES)
    messages = [_message(message, place) for place, message in enumerate(request.messages)]
    tools = [] if choice == "none" or not request.tools else body["tools"]
    return ChatRequest(
        messages=tuple(messages),
        tools=tuple({"type": "function", "function": tool["function"]} for tool in tools),
        allow_parallel_calls=request.parallel_tool_calls is not False,
        wishes=wishes_of(request, _max_tokens(request)),
    )


def chat_completion(call: Call, answers: Sequence[Answer], usage: Usage) -> ChatCompletion:
    """Return whole answers as the wire shows them."""
    return ChatCompletion(
        id=call.id,
        created=call.created,
        model=call.model,
        choices=[_choice(answer) for answer in answers],
        usage=usage,
        system_fingerprint=call.system_fingerprint,
    )


@dataclass(frozen=True)
class ChatChunks:
    """The chunks of one streamed call."""

    call: Call

    def first(self, index: int) -> list[Wire]:
        """Return the chunks that begin an answer."""
        return [self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))]

    def of(self, piece: Piece) -> Wire:
        """Return a piece of an answer as a chunk."""
        match piece:
            case TextPiece(index, text):
                return self._chunk(ChunkChoice(index=index, delta=Delta(content=text)))
            case CallsPiece(index, calls):
                shown = [_call(made, place) for place, made in enumerate(calls)]
                return self._chunk(ChunkChoice(index=index, delta=Delta(tool_calls=shown)))
            case EndPiece(index, reason):
                end = ChunkChoice(index=index, delta=Delta(), finish_reason=reason.value)
                return self._chunk(end)

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


def _choice(answer: Answer) -> ChatChoice:
    calls = [_call(made) for made in answer.tool_calls] or None
    content = answer.text if answer.text or not calls else None
    return ChatChoice(
        index=answer.index,
        message=AnswerMessage(content=content, tool_calls=calls),
        finish_reason=answer.reason.value,
    )


def _call(made: ToolCall, index: int | None = None) -> ToolCallObject:
    function = FunctionObject(name=made.name, arguments=made.arguments)
    return ToolCallObject(index=index, id=made.id, function=function)


def _max_tokens(request: ChatCompletionRequest) -> int | None:
    new, old = request.max_completion_tokens, request.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidValue(
            "Parameters max_tokens and max_completion_tokens disagree. Give the second only.",
            param="max_tokens",
        )
    return old if new is None else new


def _message(message: MessageParam, place: int) -> Message:
    where = f"messages[{place}]"
    calls = message.tool_calls or []
    if calls and message.role != "assistant":
        raise InvalidValue(
            f"Invalid '{where}.tool_calls': only assistant messages call tools. Leave it out.",
            param=f"{where}.tool_calls",
        )
    if message.role == "tool" and message.tool_call_id is None:
        raise _missing(f"{where}.tool_call_id")
    content = _content(message, where)
    if content is None and not (message.role == "assistant" and calls):
        raise _missing(f"{where}.content")
    return Message(
        role=message.role,
        content=content,
        name=message.name,
        tool_calls=tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in calls),
        tool_call_id=message.tool_call_id,
    )


def _content(message: MessageParam, where: str) -> str | None:
    """Return a message's text: its parts joined, or the assistant's refusal."""
    if not isinstance(message.content, list):
        return message.content or message.refusal or message.content
    texts = [
        _part_text(part, f"{where}.content[{place}]") for place, part in enumerate(message.content)
    ]
    return "".join(texts)


def _part_text(part: TextPart, where: str) -> str:
    texts = {"text": part.text, "refusal": part.refusal}
    if part.type not in texts:
        raise UnsupportedParameter(
            f"Invalid '{where}.type': this model reads no {part.type[:50]!r} parts. "
            "Supported values are: 'text' and 'refusal'.",
            param=f"{where}.type",
        )
    text = texts[part.type]
    if text is None:
        raise _missing(f"{where}.{part.type}")
    return text


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )
