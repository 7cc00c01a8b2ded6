"""What requests for answers share, chat or not: sampling, streaming, and what does nothing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sintonia.api.schemas.wire import LenientRequest, StrictRequest, Wire


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stop = Annotated[list[str], Field(max_length=4), BeforeValidator(_as_list)]
"""One text or up to four."""


class StreamOptions(StrictRequest):
    """``stream_options``; obfuscation is for public networks and has no effect here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class AnswerRequest(LenientRequest):
    """Parameters that chat and completions have in common and that do something.

    Others are left to ``translate/parameters.py``, which knows what becomes of each.
    """

    model: str = Field(min_length=1, max_length=256)
    n: int | None = Field(default=None, ge=1, le=128)
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000)
    """Not OpenAI's, as the two others that vLLM and llama.cpp have made usual; -1 and 0 are all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[str, Bias] | None = None
    """By the id of a token, written as a string."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class PromptDetails(Wire):
    """Details of the prompt's tokens."""

    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(Wire):
    """Details of the answer's tokens."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Wire):
    """How many tokens a call took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()
    completion_tokens_details: CompletionDetails = CompletionDetails()
