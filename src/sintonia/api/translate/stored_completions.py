"""Stored chat completions: a call and its answer to a fact, facts to wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sintonia.api.schemas.chat import ChatCompletion, ChatCompletionRequest
from sintonia.api.schemas.stored_completions import StoredCompletionObject, StoredMessageObject
from sintonia.data.distill import text_of_parts
from sintonia.domain.stored_completions import StoredCompletion

_SECONDS_PER_DAY = 86400
_NOT_KEPT = frozenset({"store", "stream", "stream_options", "metadata"})
"""Parameters that say how to answer and what to keep, not what was asked."""


def stored_completion(
    params: ChatCompletionRequest,
    body: Mapping[str, Any],
    whole: ChatCompletion,
    *,
    days: int,
    request_id: str | None,
) -> StoredCompletion:
    """Return what is kept of a call. ``body`` is the request as it was sent."""
    return StoredCompletion(
        id=whole.id,
        created_at=whole.created,
        expires_at=whole.created + days * _SECONDS_PER_DAY,
        model=whole.model,
        request={k: v for k, v in body.items() if k not in _NOT_KEPT and v is not None},
        answer=whole.model_dump(mode="json"),
        metadata=params.metadata or {},
        request_id=request_id,
    )


def stored_object(completion: StoredCompletion) -> StoredCompletionObject:
    """Return a stored completion as the wire shows it."""
    asked, answer = completion.request, completion.answer
    return StoredCompletionObject(
        id=completion.id,
        created=completion.created_at,
        model=completion.model,
        request_id=completion.request_id,
        choices=answer["choices"],
        usage=answer["usage"],
        service_tier=answer["service_tier"],
        system_fingerprint=answer["system_fingerprint"],
        metadata=completion.metadata,
        input_user=asked.get("user"),
        seed=asked.get("seed"),
        temperature=asked.get("temperature", 1.0),
        top_p=asked.get("top_p", 1.0),
        presence_penalty=asked.get("presence_penalty", 0.0),
        frequency_penalty=asked.get("frequency_penalty", 0.0),
        tools=asked.get("tools"),
        tool_choice=asked.get("tool_choice"),
        response_format=asked.get("response_format"),
    )


def stored_messages(completion: StoredCompletion) -> list[StoredMessageObject]:
    """Return the messages that were answered, in order, each with an id of its own."""
    return [
        _message(f"{completion.id}-{place}", message)
        for place, message in enumerate(completion.request["messages"])
    ]


def _message(message_id: str, sent: Mapping[str, Any]) -> StoredMessageObject:
    content = sent.get("content")
    parts = content if isinstance(content, list) else None
    return StoredMessageObject(
        id=message_id,
        role=sent["role"],
        content=content if parts is None else text_of_parts(parts),
        content_parts=parts,
        refusal=sent.get("refusal"),
        name=sent.get("name"),
        tool_calls=sent.get("tool_calls"),
        tool_call_id=sent.get("tool_call_id"),
        function_call=sent.get("function_call"),
    )
