"""What happens to parameters that have no field of their own: the one documented list.

Three fates: accepted because they change nothing here; refused because the answer would not be
what was asked for, unless the value is the one that asks for nothing; unknown, which is accepted
as newer clients send them, and reported in a response header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sintonia.api.schemas.generation import AnswerRequest
from sintonia.api.validation import shown
from sintonia.errors import UnsupportedParameter
from sintonia.serving.answers import Wishes

ACCEPTED = frozenset(
    {
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Hints and labels for OpenAI's own service; they change nothing here."""

_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
CHAT_REFUSED: Mapping[str, tuple[Any, ...]] = {
    **_SAMPLING,
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
"""Of chat: parameters that cannot be honoured yet, with the values that ask for nothing."""
COMPLETION_REFUSED: Mapping[str, tuple[Any, ...]] = {
    **_SAMPLING,
    "logprobs": (False,),
    "suffix": ("",),
}
"""The same of completions."""


def check_extra(request: AnswerRequest, refused: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    """Return the names that nobody knows. Raises ``UnsupportedParameter``."""
    given = {name: v for name, v in request.unknown_parameters.items() if v is not None}
    for name, value in given.items():
        if name in refused and not any(_is_same(value, idle) for idle in refused[name]):
            raise unsupported(name, value, refused[name])
    return tuple(name for name in given if name not in refused and name not in ACCEPTED)


def unsupported(name: str, value: Any, idle: tuple[Any, ...]) -> UnsupportedParameter:
    """Return the refusal of a parameter, naming the values that are allowed."""
    allowed = " or ".join(shown(value) for value in (*idle, None)).replace("None", "null")
    return UnsupportedParameter(
        f"Unsupported value: '{name}' does not support {shown(value)} here yet. "
        f"Leave it out, or give {allowed}.",
        param=name,
    )


def wishes_of(request: AnswerRequest, max_tokens: int | None) -> Wishes:
    """Return how the answers are to be made; OpenAI's defaults where nothing was given."""
    return Wishes(
        n=1 if request.n is None else request.n,
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=tuple(request.stop or ()),
    )


def _is_same(value: Any, idle: Any) -> bool:
    """Compare as JSON does: ``false`` is not 0."""
    return bool(value == idle) and isinstance(value, bool) == isinstance(idle, bool)
