"""Log-probabilities as each endpoint shows them.

A token that is a fragment of a character has no text of its own: as with OpenAI its bytes stand
for it, escaped in chat and behind ``bytes:`` in completions. What a model rules out has the
log-probability -9999.
"""

from __future__ import annotations

from collections.abc import Sequence

from sintonia.api.schemas.chat import ChoiceLogprobs, TokenLogprob, TopLogprob
from sintonia.api.schemas.completions import CompletionLogprobs
from sintonia.data.token_bytes import TokenText
from sintonia.serving.answers import ScoredToken

LEAST = -9999.0
"""OpenAI's sign for a probability of zero."""


def chat_logprobs(tokens: Sequence[ScoredToken]) -> ChoiceLogprobs:
    """Return the tokens of an answer as chat shows them."""
    return ChoiceLogprobs(content=[_chat_token(token) for token in tokens])


def completion_logprobs(tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
    """Return the tokens of an answer, perhaps behind those of its prompt, as lists."""
    return CompletionLogprobs(
        tokens=[_completion_name(token.token) for token in tokens],
        token_logprobs=[_shown(token.logprob) for token in tokens],
        top_logprobs=[_top_by_name(token) for token in tokens],
        text_offset=[token.offset for token in tokens],
    )


def _chat_token(scored: ScoredToken) -> TokenLogprob:
    assert scored.logprob is not None, "every token of an answer has a log-probability"
    top = [_top(token, logprob) for token, logprob in scored.top]
    own = _top(scored.token, scored.logprob)
    return TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=top)


def _top(token: TokenText, logprob: float) -> TopLogprob:
    value = None if token.bytes is None else list(token.bytes)
    return TopLogprob(token=_name(token), logprob=max(logprob, LEAST), bytes=value)


def _top_by_name(scored: ScoredToken) -> dict[str, float] | None:
    """Return the likeliest tokens and the one that stands there, by name."""
    if scored.logprob is None:
        return None
    by_name: dict[str, float] = {}
    for token, logprob in (*scored.top, (scored.token, scored.logprob)):
        by_name.setdefault(_completion_name(token), max(logprob, LEAST))
    return by_name


def _shown(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)


def _completion_name(token: TokenText) -> str:
    name = _name(token)
    return name if _is_whole(token) else f"bytes:{name}"


def _name(token: TokenText) -> str:
    if token.bytes is None:
        return token.name
    return token.bytes.decode() if _is_whole(token) else token.bytes.decode("ascii", _ESCAPED)


_ESCAPED = "backslashreplace"


def _is_whole(token: TokenText) -> bool:
    """Tell whether a token's bytes are characters."""
    try:
        (token.bytes or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
