"""Raw completions on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from sintonia.api.schemas.generation import AnswerRequest, Usage
from sintonia.api.schemas.wire import Wire

MAX_PROMPTS = 2048
_Token = Annotated[int, Field(ge=0)]
_Tokens = Annotated[list[_Token], Field(min_length=1)]


def _prompt_tag(value: Any) -> str:
    if not isinstance(value, list):
        return "~text"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "~token_lists"
    return "~texts" if isinstance(first, str) else "~tokens"


Prompt = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS), Tag("~texts")]
    | Annotated[_Tokens, Tag("~tokens")]
    | Annotated[list[_Tokens], Field(max_length=MAX_PROMPTS), Tag("~token_lists")],
    Discriminator(_prompt_tag),
]
"""A text, texts, tokens or lists of tokens."""


class CompletionParams(AnswerRequest):
    """Parameters of ``POST /v1/completions`` that do something."""

    prompt: Prompt | None = None
    """Absent: as from the beginning of a text."""
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=0, le=20)
    logprobs: int | None = Field(default=None, ge=0, le=5)


class CompletionLogprobs(Wire):
    """The log-probabilities of an answer, or of what a chunk adds to it: a value for each token.

    The first token of a prompt has none, hence ``null``.
    """

    tokens: Sequence[str]
    token_logprobs: Sequence[float | None]
    top_logprobs: Sequence[dict[str, float] | None]
    text_offset: Sequence[int]


class CompletionChoice(Wire):
    """One answer, or in a stream what a chunk adds to it."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None


class Completion(Wire):
    """All answers, or one chunk of them."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset({"usage"})

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str
