"""Chat completions on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from sintonia.api.schemas.generation import AnswerRequest, Usage
from sintonia.api.schemas.wire import StrictRequest, Wire


class ContentPart(StrictRequest):
    """A part of a message's content. Parts that hold no text are refused by their type.

    The keys from ``annotations`` on are what clients send along; they have no effect.
    """

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    annotations: Any = None
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


def _content_tag(value: object) -> str:
    return "~parts" if isinstance(value, list | tuple) else "~text"


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[ContentPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_content_tag),
]


class FunctionCall(StrictRequest):
    """Which function, and its arguments as JSON text."""

    name: str = Field(min_length=1)
    arguments: str
    parsed_arguments: Any = None
    """Added by OpenAI's own client to what it parsed; it has no effect."""


class ToolCallParam(StrictRequest):
    """A call that an earlier answer made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Any = None
    """Left by clients that put a stream together; it has no effect."""


class MessageParam(StrictRequest):
    """One message of the conversation.

    The keys from ``annotations`` on are what clients leave in answers that they send back, and
    in rows of training files; they have no effect.
    """

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCallParam] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None
    annotations: Any = None
    audio: Any = None
    parsed: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    weight: Any = None


class FunctionParam(StrictRequest):
    """A function that may be called; ``parameters`` is its JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolParam(StrictRequest):
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
    functions: list[FunctionParam] | None = Field(default=None, max_length=128)
    function_call: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


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

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"tool_calls", "function_call"})

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: Sequence[ToolCallObject] | None = None
    function_call: FunctionObject | None = None
    annotations: Sequence[Any] = ()


class TopLogprob(BaseModel):
    """A likely token; ``bytes`` is a fragment of UTF-8, ``null`` for tokens that have none.

    Not a ``Wire``: there are many of them, and nothing of them is ever left out.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer and the likeliest ones in its place."""

    top_logprobs: Sequence[TopLogprob]


class ChoiceLogprobs(Wire):
    """The log-probabilities of an answer, or of what a chunk adds to it."""

    content: Sequence[TokenLogprob] | None
    refusal: None = None


class ChatChoice(Wire):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
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
        {"role", "content", "refusal", "tool_calls", "function_call"}
    )

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: Sequence[ToolCallObject] | None = None
    function_call: FunctionObject | None = None


class ChunkChoice(Wire):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
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
