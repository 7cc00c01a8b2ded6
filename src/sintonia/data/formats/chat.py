"""Chat rows: ``{"messages": [...], "tools": [...]}``; the assistant's messages are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sintonia.data.formats._conversation import Conversation, check_parallel_calls
from sintonia.data.formats._tools import read_tools
from sintonia.data.problems import RowLog
from sintonia.domain.examples import ChatExample, Message
from sintonia.domain.methods import MethodType

NAME = "chat"
METHOD = MethodType.SUPERVISED
_ROW_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})


def matches(row: Mapping[str, Any]) -> bool:
    """Tell by its keys whether ``row`` is a conversation."""
    return "messages" in row


def parse(row: Mapping[str, Any], log: RowLog) -> ChatExample | None:
    """Return the conversation, or ``None`` when problems of the row were added to ``log``."""
    log.refuse_extra(key for key in row if key not in _ROW_KEYS)
    check_parallel_calls(row, log)
    tools = read_tools(row, log)
    messages = _read_messages(row["messages"], log)
    return ChatExample(tuple(messages), tools) if log.is_clean else None


def _read_messages(values: Any, log: RowLog) -> list[Message]:
    if not isinstance(values, list):
        log.add_wrong_type(values, "messages", "an array of messages")
        return []
    if not values:
        log.add("has no messages; it needs at least one, from the assistant.", "messages")
        return []
    conversation = Conversation()
    found = [conversation.read(value, log.of_message(n)) for n, value in enumerate(values, 1)]
    messages = [message for message in found if message is not None]
    if (last := found[-1]) is not None and last.role != "assistant":
        rule = f'has role "{values[-1]["role"]}"; the last message must be from the assistant.'
        log.of_message(len(values)).add(rule, "role")
    elif len(messages) == len(found) and not any(message.is_learned for message in messages):
        log.add("has nothing to learn: all its assistant messages have weight 0.", "messages")
    return messages
