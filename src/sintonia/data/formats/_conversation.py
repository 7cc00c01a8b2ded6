"""The messages of a conversation, read in order: what chat and preference rows share.

Deprecated functions become tools, so that one conversation has one form in the product: role
``function`` is the ``tool`` message that answers the latest call of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sintonia.data.formats._content import read_content
from sintonia.data.formats._tools import read_function_call, read_tool_calls
from sintonia.data.problems import RowLog, json_type, quoted
from sintonia.domain.examples import ROLES, Message, ToolCall

_PLAIN_KEYS = frozenset({"role", "content", "name"})
_ASSISTANT_KEYS = _PLAIN_KEYS | {"refusal", "weight", "tool_calls", "function_call", "audio"}
_MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": _PLAIN_KEYS,
    "developer": _PLAIN_KEYS,
    "user": _PLAIN_KEYS,
    "assistant": _ASSISTANT_KEYS,
    "tool": _PLAIN_KEYS | {"tool_call_id"},
    "function": _PLAIN_KEYS,
}
_ALL_MESSAGE_KEYS = frozenset[str]().union(*_MESSAGE_KEYS.values())


def check_parallel_calls(row: Mapping[str, Any], log: RowLog) -> None:
    """Refuse a ``parallel_tool_calls`` that is not true or false."""
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        log.add_wrong_type(parallel, "parallel_tool_calls", "true or false")


class Conversation:
    """Reads the messages of one row in order; remembers the calls made so far."""

    def __init__(self) -> None:
        self._call_ids: set[str] = set()
        self._function_calls: dict[str, str] = {}
        """For each function called the deprecated way, the id that its latest call got."""

    def read(self, value: Any, log: RowLog) -> Message | None:
        """Return a message, or ``None`` when its role cannot be known."""
        role = _read_role(value, log)
        if role is None:
            return None
        if not value.keys() <= _MESSAGE_KEYS[role]:
            _refuse_extra(value, role, log)
        name = value.get("name")
        if name is not None and not isinstance(name, str):
            log.add_wrong_type(name, "name", "a string")
        if role == "assistant":
            return self._assistant(value, log)
        content = _read_content(value, role, log)
        if role == "tool":
            call_id = self._answered_call(value, log)
            return Message(role=role, content=content, name=name, tool_call_id=call_id)
        if role == "function":
            call_id = self._answered_function(value, log)
            return Message(role="tool", content=content, tool_call_id=call_id)
        return Message(role=role, content=content, name=name)

    def _assistant(self, value: Mapping[str, Any], log: RowLog) -> Message:
        calls = self._calls(value, log)
        makes_calls = bool(value.get("tool_calls") or value.get("function_call"))
        content = _read_answer(value, log, is_optional=makes_calls)
        weight = value.get("weight")
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
            log.add(f"has weight {quoted(weight)}; it must be 0 or 1.", "weight")
            weight = None
        if value.get("audio") is not None:
            log.add("has audio; the model answers with text only.", "audio")
        if content == "" and not makes_calls and weight != 0:
            log.add("has empty content; an answer to learn needs text or tool_calls.", "content")
        return Message(
            role="assistant",
            content=content,
            name=value.get("name"),
            tool_calls=calls,
            weight=weight,
        )

    def _calls(self, value: Mapping[str, Any], log: RowLog) -> tuple[ToolCall, ...]:
        tool_calls, function_call = value.get("tool_calls"), value.get("function_call")
        if tool_calls is None and function_call is None:
            return ()
        calls = read_tool_calls(tool_calls, log) if tool_calls is not None else ()
        if function_call is not None:
            if calls:
                log.add("has both tool_calls and function_call; keep tool_calls.", "function_call")
            call = read_function_call(function_call, log)
            self._function_calls[call.name] = call.id
            calls = (*calls, call)
        self._call_ids.update(call.id for call in calls)
        return calls

    def _answered_call(self, value: Mapping[str, Any], log: RowLog) -> str | None:
        call_id = value.get("tool_call_id")
        if isinstance(call_id, str) and call_id in self._call_ids:
            return call_id
        if "tool_call_id" not in value:
            log.add("is missing key tool_call_id.", "tool_call_id")
            return None
        rule = f"has tool_call_id {quoted(call_id)}, which no earlier tool call has."
        log.add(rule, "tool_call_id")
        return None

    def _answered_function(self, value: Mapping[str, Any], log: RowLog) -> str | None:
        name = value.get("name")
        if isinstance(name, str) and name in self._function_calls:
            return self._function_calls[name]
        if name is None:
            log.add("is missing key name.", "name")
        elif isinstance(name, str):
            log.add(f"answers function {quoted(name)}, which no earlier message calls.", "name")
        return None


def _read_role(value: Any, log: RowLog) -> str | None:
    if not isinstance(value, dict):
        log.add(f"is of type {json_type(value)}; it must be an object with role and content.")
        return None
    if "role" not in value:
        log.add("Discriminator 'role' is missing in value", "role")
        return None
    role = value["role"]
    if isinstance(role, str) and role in _MESSAGE_KEYS:
        return role
    log.add(f"has role {quoted(role)}; allowed roles are {', '.join(ROLES)}.", "role")
    return None


def _refuse_extra(value: Mapping[str, Any], role: str, log: RowLog) -> None:
    """Refuse keys that nobody knows, and known ones that belong to other roles."""
    extra = [key for key in value if key not in _MESSAGE_KEYS[role]]
    log.refuse_extra(key for key in extra if key not in _ALL_MESSAGE_KEYS)
    for key in extra:
        if key in _ALL_MESSAGE_KEYS and value[key] is not None:
            owner = "tool" if key == "tool_call_id" else "assistant"
            log.add(f'contains an extra "{key}"; only {owner} messages have it.', key)


def _read_content(value: Mapping[str, Any], role: str, log: RowLog) -> str | None:
    content = value.get("content")
    if content is not None:
        return read_content(content, role, log)
    if role == "function":
        return ""  # OpenAI's schema allows null for what a function returned
    log.add("is missing key content.", "content")
    return None


def _read_answer(value: Mapping[str, Any], log: RowLog, *, is_optional: bool) -> str | None:
    """Return what the assistant said: its content, or its refusal."""
    content, refusal = value.get("content"), value.get("refusal")
    if refusal is not None and not isinstance(refusal, str):
        log.add_wrong_type(refusal, "refusal", "a string")
        return None
    if content and refusal:
        log.add("has both content and refusal; give one of them.", "refusal")
    if refusal and not content:
        return refusal
    if content is None and is_optional:
        return None
    return _read_content(value, "assistant", log)
