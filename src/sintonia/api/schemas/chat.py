"""Chat completions on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from sintonia.api.schemas.generation import AnswerRequest, Usage
from sintonia.api.schemas.wire import LenientRequest, Wire


class TextPart(LenientRequest):
    """A part of a message's content. Parts of other types are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None


def _content_tag(value: object) -> str:
    return "~parts" if isinstance(value, list | tuple) else "~text"


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[TextPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_content_tag),
]


class FunctionCall(LenientRequest):
    """Which function, and its arguments as JSON text."""

    name: str = Field(min_length=1)
    arguments: str


class ToolCallParam(LenientRequest):
    """A call that an earlier answer made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageParam(LenientRequest):
    """One message of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCallParam] | None = None
    tool_call_id: str | None = None


class FunctionParam(LenientRequest):
    """A function that may be called; ``parameters`` is its JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolParam(LenientRequest):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: FunctionParam


class ChatCompletionRequest(AnswerRequest):
    """Parameters of ``POST /v1/chat/completions`` that do something."""

    messages: list[MessageParam] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    tools: list[ToolParam] | None = Field(default=None, max_length=128)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


class FunctionObject(Wire):
    """A function that the model wants called."""

    name: str
    arguments: str


class ToolCallObject(Wire):
    """A call in an answer; in a chunk it carries its place among the calls."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"index"})

    index: int | None = None
    id: str
    type: Literal["function"] = "function"
    function: FunctionObject


class AnswerMessage(Wire):
    """The assistant's message."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"tool_calls"})

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: Sequence[ToolCallObject] | None = None
    annotations: Sequence[Any] = ()


class ChatChoice(Wire):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: str


class ChatCompletion(Wire):
    """All answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default"] = "default"
    system_fingerprint: str


class Delta(Wire):
    """What a chunk adds to a message."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset(
        {"role", "content", "refusal", "tool_calls"}
    )

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: Sequence[ToolCallObject] | None = None


class ChunkChoice(Wire):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class ChatChunk(Wire):
    """A part of a streamed answer; ``usage`` is there only when it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
