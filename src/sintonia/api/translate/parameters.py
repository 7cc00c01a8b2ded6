"""What happens to parameters that have no field of their own: the one documented list.

Three fates: accepted because they change nothing here; refused because the answer would not be
what was asked for, unless the value is the one that asks for nothing; unknown, which is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sintonia.api.schemas.generation import AnswerRequest
from sintonia.api.validation import Finding, error_of, shown
from sintonia.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue
from sintonia.serving.answers import Wishes

_Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_Tier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
_Object = dict[str, Any]

ACCEPTED: Mapping[str, Any] = {
    "moderation": _Object,
    "prediction": _Object,
    "prompt_cache_key": str,
    "prompt_cache_options": _Object,
    "prompt_cache_retention": Literal["in_memory", "in-memory", "24h"],
    "reasoning_effort": _Effort,
    "safety_identifier": Annotated[str, Field(max_length=64)],
    "service_tier": _Tier,
    "user": str,
    "verbosity": Literal["low", "medium", "high"],
}
"""Hints and labels for OpenAI's own service, with what they may be; they change nothing here."""

CHAT_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}
"""Of chat: parameters that cannot be honoured yet, with the values that ask for nothing."""
COMPLETION_REFUSED: Mapping[str, tuple[Any, ...]] = {"suffix": ("",)}
"""The same of completions."""


def check_extra(request: AnswerRequest, refused: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    """Return the names of the parameters that have no effect.

    Raises ``InvalidRequest`` that names all which are unknown or wrong, or
    ``UnsupportedParameter`` or ``UnsupportedValue`` for one that cannot be honoured.
    """
    given = {name: v for name, v in request.unknown_parameters.items() if v is not None}
    for name, value in given.items():
        if name in refused and not any(_is_same(value, idle) for idle in refused[name]):
            raise unsupported(name, value, refused[name])
    rest = {name: value for name, value in given.items() if name not in refused}
    findings = [finding for name, value in rest.items() for finding in _findings(name, value)]
    if findings:
        raise error_of(findings)
    options = request.stream_options
    if options is not None and options.include_obfuscation:
        rest["stream_options.include_obfuscation"] = True
    return tuple(rest)


def _findings(name: str, value: Any) -> Iterator[Finding]:
    """Yield what is wrong with a parameter that has no field."""
    if name not in ACCEPTED:
        yield {"type": "extra_forbidden", "loc": (name,), "msg": "", "input": value}
        return
    try:
        TypeAdapter(ACCEPTED[name], config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as problem:
        for finding in problem.errors(include_url=False):
            yield {**finding, "loc": (name, *finding["loc"])}


def unsupported(name: str, value: Any, idle: tuple[Any, ...]) -> InvalidRequest:
    """Return the refusal of a parameter, naming the values that are allowed."""
    if not idle:
        return UnsupportedParameter(
            f"Unsupported parameter: '{name}' is not supported here yet. Leave it out.",
            param=name,
        )
    allowed = " or ".join(shown(value) for value in (*idle, None)).replace("None", "null")
    return UnsupportedValue(
        f"Unsupported value: '{name}' does not support {shown(value)} here yet. "
        f"Leave it out, or give {allowed}.",
        param=name,
    )


def wishes_of(
    request: AnswerRequest, max_tokens: int | None, top_logprobs: int | None = None
) -> Wishes:
    """Return how the answers are to be made; OpenAI's defaults where nothing was given.

    Raises ``InvalidRequest``.
    """
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    return Wishes(
        n=1 if request.n is None else request.n,
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        seed=request.seed,
        stop=tuple(request.stop or ()),
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        logit_bias=_bias(request.logit_bias or {}),
        top_logprobs=top_logprobs,
    )


def _bias(given: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Return token ids and what is added to their logits; that they exist is checked later."""
    bias: dict[int, float] = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdigit() and len(key) <= _MOST_DIGITS):
            raise InvalidRequest(
                f"Invalid key in 'logit_bias': {key[:100]}. "
                "You should only be submitting non-negative integers.",
                param="logit_bias",
            )
        bias[int(key)] = value
    return tuple(bias.items())


_MOST_DIGITS = 18
"""Longer numbers are no token of any model."""


def _is_same(value: Any, idle: Any) -> bool:
    """Compare as JSON does: ``false`` is not 0."""
    return bool(value == idle) and isinstance(value, bool) == isinstance(idle, bool)
