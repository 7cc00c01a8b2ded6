"""Stored chat completions on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from sintonia.api.schemas.jobs import Metadata
from sintonia.api.schemas.wire import StrictRequest, Wire


class MetadataUpdate(StrictRequest):
    """Parameters of ``POST /v1/chat/completions/{id}``."""

    metadata: Metadata | None


class StoredCompletionObject(Wire):
    """An answer as it was given, with what was asked for beside the messages."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    request_id: str | None
    choices: Sequence[Mapping[str, Any]]
    usage: Mapping[str, Any]
    service_tier: str
    system_fingerprint: str
    metadata: Mapping[str, str]
    input_user: str | None
    seed: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: Any
    response_format: Any


class StoredMessageObject(Wire):
    """A message of the conversation that was answered."""

    left_out_when_none: ClassVar[frozenset[str]] = frozenset(
        {"tool_calls", "tool_call_id", "function_call"}
    )

    id: str
    role: str
    content: str | None
    """Its text; parts are joined."""
    content_parts: Sequence[Mapping[str, Any]] | None
    """The parts, where it was sent in parts."""
    refusal: str | None
    name: str | None
    tool_calls: Sequence[Mapping[str, Any]] | None
    tool_call_id: str | None
    function_call: Mapping[str, Any] | None


class CompletionDeleted(Wire):
    """The answer to a deletion."""

    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    id: str
    deleted: Literal[True] = True
