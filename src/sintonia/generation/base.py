"""The vocabulary of generation. An engine sees only tokens; text is the renderer's business."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sintonia.errors import InvalidValue


@dataclass(frozen=True)
class ModelRef:
    """The weights that a request wants: a base folder and perhaps an adapter over it."""

    base_folder: str
    base_sha256: str
    adapter_folder: str | None = None
    adapter_sha256: str | None = None


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen."""

    max_tokens: int
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """Only so many of the likeliest tokens; 0: all."""
    min_p: float = 0.0
    """Only tokens at least so likely, as a part of the likeliest one's probability."""
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    """A token of these ends the answer and is reported as the last one."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the answer has it already."""
    presence_penalty: float = 0.0
    """Taken once from the logit of each token that the answer has already."""
    repetition_penalty: float = 1.0
    """Divides the logit of a token that the prompt or the answer has already, or multiplies one
    below 0 (Keskar et al. 2019)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens and what is added to their logits; each token once."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens are told at each place, beside the log-probability of the
    token that stands there; ``None``: no log-probabilities at all."""
    prompt_logprobs: bool = False
    """Whether they are told for the prompt too; an answer of 0 tokens is allowed then."""


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to continue."""

    id: str
    model: ModelRef
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams


def check_request(request: GenerationRequest) -> None:
    """Refuse what no engine can continue. Raises ``InvalidValue``."""
    if not request.prompt_ids:
        raise InvalidValue("The prompt has 0 tokens: at least 1 is needed. Send some text.")
    sampling = request.sampling
    if sampling.prompt_logprobs and sampling.top_logprobs is None:
        raise InvalidValue("prompt_logprobs needs top_logprobs. Say how many, 0 or more.")
    least = 0 if sampling.prompt_logprobs else 1
    if sampling.max_tokens < least:
        raise InvalidValue(
            f"max_tokens {sampling.max_tokens}: must be at least {least}. Ask for a token."
        )


class FinishReason(StrEnum):
    """Why an answer ended; OpenAI's names."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class TokenLogprob:
    """What the model thought of a token, in natural logarithms of probabilities.

    They are those of the model itself: before temperature, ``top_p``, penalties and bias.
    """

    logprob: float
    """Of the token that stands there; minus infinity when the model rules it out."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place, the likeliest first."""


@dataclass(frozen=True)
class TokenChunk:
    """What one or more steps added to a request."""

    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    """Set on the last chunk of a request."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of ``token_ids`` when the request asks for them."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """The next tokens of the prompt, when asked for: its second token is the first that has one.
    All of them come before or with the first of ``token_ids``."""
    cached_tokens: int = 0
    """With the first of ``token_ids``: tokens of the prompt that had been read when it began."""


@dataclass(frozen=True)
class EngineStatus:
    """What an engine holds at the moment."""

    resident_bases: tuple[str, ...] = ()
    resident_adapters: tuple[str, ...] = ()
    running: int = 0
    waiting: int = 0
    extra: dict[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """What generates. Two real ones exist: ``native`` (the model) and ``echo`` (tiny, honest)."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Yield the tokens of ``request`` as they come; closing the iterator frees its slot.

        Raises ``RefusedModel`` when the weights cannot be loaded, ``ContextLengthExceeded``
        when the prompt does not fit, ``TooManyRequests`` when the queue is full.
        """
        ...

    @property
    def num_held(self) -> int:
        """How many requests run or wait, as far as this process has sent them."""
        ...

    async def unload(self, adapter_or_base_sha256: str) -> None:
        """Drop weights that are resident; a no-op when they are not."""
        ...

    async def status(self) -> EngineStatus:
        """Tell what is resident and how many requests run and wait."""
        ...

    async def close(self) -> None:
        """End all requests and free everything."""
        ...
