"""What the engine process and its client agree on: where they meet and what their lines mean.

One JSON object a line, UTF-8. The client sends ``{"op": OP, "id": N, ...}`` with OP one of
``generate`` (``request``), ``cancel``, ``status``, ``unload`` (``sha256``). Each answer carries
the ``id``: ``chunk`` lines end with one that has a ``finish_reason``; ``status`` and ``done``
are single; an ``error`` line is always the last of its id. Many ids share a connection.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintonia.errors import InvalidValue, ServerError, SintoniaError, Unavailable
from sintonia.generation.base import (
    EngineStatus,
    FinishReason,
    GenerationRequest,
    ModelRef,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
)
from sintonia.settings import Settings

SOCKET_NAME = "engine.sock"
MAX_LINE_BYTES = 16 * 1024 * 1024
"""A prompt of a million tokens fits."""
_MAX_PATH_BYTES = 100
"""``sun_path`` holds 104 bytes on macOS and 108 on Linux, the closing zero among them."""


def socket_path(settings: Settings) -> Path:
    """Return where the engine of this home listens.

    That is in the home, or, when the path is too long for a Unix socket, in a folder of the
    temporary directory that is named by the home's hash.
    """
    path = settings.home / SOCKET_NAME
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sintonia-{os.getuid()}-{digest}" / SOCKET_NAME


def encode_line(message: dict[str, Any]) -> bytes:
    """Return ``message`` as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Return the message of a line. Raises ``ValueError`` when it is no JSON object."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a line must be a JSON object")  # noqa: TRY004 - one error for bad lines
    return message


def encode_request(request: GenerationRequest) -> dict[str, Any]:
    """Return a request as JSON values."""
    return asdict(request)


def decode_request(data: Any) -> GenerationRequest:
    """Return the request in ``data``. Raises ``InvalidValue`` when it is not one."""
    try:
        return GenerationRequest(
            id=data["id"],
            model=ModelRef(**data["model"]),
            prompt_ids=tuple(data["prompt_ids"]),
            sampling=_decode_sampling(data["sampling"]),
        )
    except (KeyError, TypeError, ValueError):
        raise InvalidValue(
            "The engine cannot read the request: a part is missing or unknown. "
            "Run server and engine from the same version."
        ) from None


def _decode_sampling(data: dict[str, Any]) -> SamplingParams:
    bias = tuple((token_id, value) for token_id, value in data["logit_bias"])
    stops = tuple(data["stop_token_ids"])
    return SamplingParams(**{**data, "logit_bias": bias, "stop_token_ids": stops})


def encode_chunk(chunk: TokenChunk) -> dict[str, Any]:
    """Return a chunk as JSON values; what it has none of is left out."""
    encoded: dict[str, Any] = {"token_ids": chunk.token_ids, "finish_reason": chunk.finish_reason}
    if chunk.logprobs:
        encoded["logprobs"] = [(one.logprob, one.top) for one in chunk.logprobs]
    if chunk.prompt_logprobs:
        encoded["prompt_logprobs"] = [(one.logprob, one.top) for one in chunk.prompt_logprobs]
    if chunk.cached_tokens:
        encoded["cached_tokens"] = chunk.cached_tokens
    return encoded


def decode_chunk(data: dict[str, Any]) -> TokenChunk:
    """Return the chunk in ``data``."""
    reason = data["finish_reason"]
    return TokenChunk(
        token_ids=tuple(data["token_ids"]),
        finish_reason=FinishReason(reason) if reason else None,
        logprobs=_decode_logprobs(data.get("logprobs", ())),
        prompt_logprobs=_decode_logprobs(data.get("prompt_logprobs", ())),
        cached_tokens=data.get("cached_tokens", 0),
    )


def _decode_logprobs(data: Iterable[Any]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(own, tuple(map(tuple, top))) for own, top in data)


def encode_status(status: EngineStatus) -> dict[str, Any]:
    """Return a status as JSON values."""
    return asdict(status)


def decode_status(data: dict[str, Any]) -> EngineStatus:
    """Return the status in ``data``."""
    bases, adapters = tuple(data["resident_bases"]), tuple(data["resident_adapters"])
    return EngineStatus(**{**data, "resident_bases": bases, "resident_adapters": adapters})


def encode_error(error: SintoniaError) -> dict[str, Any]:
    """Return an error as JSON values."""
    encoded: dict[str, Any] = {
        "class": type(error).__name__,
        "message": error.message,
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, Unavailable):
        encoded["retry_after_seconds"] = error.retry_after_seconds
    return encoded


def decode_error(data: dict[str, Any]) -> SintoniaError:
    """Return an error of the same class as the one that was encoded."""
    kind = {found.__name__: found for found in _error_classes()}.get(data["class"], ServerError)
    error = kind.__new__(kind)
    SintoniaError.__init__(error, data["message"], param=data["param"], code=data["code"])
    if isinstance(error, Unavailable):
        error.retry_after_seconds = data["retry_after_seconds"]
    return error


def _error_classes(root: type[SintoniaError] = SintoniaError) -> Iterator[type[SintoniaError]]:
    yield root
    for child in root.__subclasses__():
        yield from _error_classes(child)
