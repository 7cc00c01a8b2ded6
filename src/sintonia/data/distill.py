"""From a stored answer to a row of a training file.

A row teaches one answer: the turns of the assistant before it are part of its prompt (weight 0).
It holds what the model read and said, and nothing that is about the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from sintonia.data.formats import chat
from sintonia.data.problems import ProblemLog

Row = dict[str, Any]

_PLAIN_KEYS = ("role", "name")
_KEYS = {
    "assistant": (*_PLAIN_KEYS, "refusal", "tool_calls", "function_call"),
    "tool": (*_PLAIN_KEYS, "tool_call_id"),
}


class Flaw(StrEnum):
    """Why an answer is not learned."""

    CUT_OFF = "cut_off"
    """It reached its limit of tokens."""
    EMPTY = "empty"
    """It has neither text nor calls."""
    INVALID = "invalid"
    """It is no valid training row: for example, the arguments of a call are not JSON."""
    DUPLICATE = "duplicate"
    """The same row was written already."""


def flaw_of(choice: Mapping[str, Any], row: Row) -> Flaw | None:
    """Return what keeps an answer, and the row made of it, out of a training file."""
    message = choice["message"]
    if choice["finish_reason"] == "length":
        return Flaw.CUT_OFF
    if not (message.get("content") or message.get("tool_calls") or message.get("function_call")):
        return Flaw.EMPTY
    chat.parse(row, (log := ProblemLog()).row(1, 1))
    return Flaw.INVALID if log.count else None


def training_row(request: Mapping[str, Any], choice: Mapping[str, Any]) -> Row:
    """Return the row that teaches one answer of a request to chat."""
    before = [_message(message) for message in request["messages"]]
    for message in before:
        if message["role"] == "assistant":
            message["weight"] = 0
    return {"messages": [*before, _message(choice["message"])], **_tools(request)}


def prompt_of(row: Row) -> Row:
    """Return what a row answers, without the answer."""
    return {**row, "messages": row["messages"][:-1]}


def text_of_parts(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of content that was sent in parts."""
    return "".join(part.get(part["type"]) or "" for part in parts)


def _message(sent: Mapping[str, Any]) -> Row:
    kept = {key: sent.get(key) for key in _KEYS.get(sent["role"], _PLAIN_KEYS)}
    content = sent.get("content")
    kept["content"] = text_of_parts(content) if isinstance(content, list) else content
    kept["tool_calls"] = [_call(call) for call in kept.get("tool_calls") or ()]
    if function := kept.get("function_call"):
        kept["function_call"] = _function(function)
    return {key: value for key, value in kept.items() if value is not None and value != []}


def _call(sent: Mapping[str, Any]) -> Row:
    return {"id": sent["id"], "type": "function", "function": _function(sent["function"])}


def _function(sent: Mapping[str, Any]) -> Row:
    return {"name": sent["name"], "arguments": sent["arguments"]}


def _tools(request: Mapping[str, Any]) -> Row:
    """Return the tools that the model was offered, in the spelling of the request."""
    offered: Row = {}
    if request.get("tools") and request.get("tool_choice") != "none":
        tools = request["tools"]
        offered["tools"] = [{"type": "function", "function": t["function"]} for t in tools]
        if request.get("parallel_tool_calls") is not None:
            offered["parallel_tool_calls"] = request["parallel_tool_calls"]
    elif request.get("functions") and request.get("function_call") != "none":
        offered["functions"] = request["functions"]
    return offered
