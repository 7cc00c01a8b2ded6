"""Preference rows: one input, an answer that is preferred and one that is not.

``{"input": {"messages": [...], "tools": [...]}, "preferred_output": [...],
"non_preferred_output": [...]}``: each output is an array of one message from the assistant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sintonia.data.formats._conversation import Conversation, check_parallel_calls
from sintonia.data.formats._tools import read_tools
from sintonia.data.problems import RowLog, quoted
from sintonia.domain.examples import Message, PreferenceExample
from sintonia.domain.methods import MethodType

NAME = "preference"
METHOD = MethodType.DPO
PREFERRED, NON_PREFERRED = "preferred_output", "non_preferred_output"
_ROW_KEYS = ("input", PREFERRED, NON_PREFERRED)
_INPUT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})


def matches(row: Mapping[str, Any]) -> bool:
    """Tell by its keys whether ``row`` is meant to be a pair of answers."""
    given = row.get("input")
    is_chat_input = isinstance(given, dict) and "messages" in given
    return is_chat_input or PREFERRED in row or NON_PREFERRED in row


def parse(row: Mapping[str, Any], log: RowLog) -> PreferenceExample | None:
    """Return the pair, or ``None`` when problems of the row were added to ``log``."""
    log.refuse_extra(key for key in row if key not in _ROW_KEYS)
    for key in _ROW_KEYS:
        if key not in row:
            log.add(f"is missing key '{key}'.", key)
    conversation = Conversation()
    messages, tools = _read_input(row, conversation, log)
    preferred = _read_output(row, PREFERRED, conversation, log)
    non_preferred = _read_output(row, NON_PREFERRED, conversation, log)
    if not log.is_clean or preferred is None or non_preferred is None:
        return None
    if _said(preferred) == _said(non_preferred):
        log.add(
            f"has the same answer as {PREFERRED} and as {NON_PREFERRED}; "
            "there is nothing to prefer. Leave it out, or make them differ.",
            NON_PREFERRED,
        )
        return None
    return PreferenceExample(messages, preferred, non_preferred, tools)


def _read_input(
    row: Mapping[str, Any], conversation: Conversation, log: RowLog
) -> tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]]:
    """Return messages and tools of ``row["input"]``; problems go to ``log``."""
    if "input" not in row:
        return (), ()
    given, inside = row["input"], log.within("input")
    if not isinstance(given, dict):
        log.add_wrong_type(given, "input", "an object with messages")
        return (), ()
    inside.refuse_extra(key for key in given if key not in _INPUT_KEYS)
    check_parallel_calls(given, inside)
    tools = read_tools({"tools": given.get("tools")}, inside)
    return tuple(_read_messages(given, conversation, inside)), tools


def _read_messages(
    given: Mapping[str, Any], conversation: Conversation, log: RowLog
) -> list[Message]:
    if "messages" not in given:
        log.add("is missing key 'messages'.", "messages")
        return []
    values = given["messages"]
    if not isinstance(values, list):
        log.add_wrong_type(values, "messages", "an array of messages")
        return []
    if not values:
        log.add("has no messages; the outputs must answer one.", "messages")
        return []
    found = [conversation.read(value, log.of_message(n)) for n, value in enumerate(values, 1)]
    if (last := found[-1]) is not None and last.role == "assistant":
        rule = "is from the assistant; the input must end with what the outputs answer."
        log.of_message(len(values)).add(rule, "role")
    return [message for message in found if message is not None]


def _read_output(
    row: Mapping[str, Any], key: str, conversation: Conversation, log: RowLog
) -> Message | None:
    """Return the one answer that ``row[key]`` holds; problems go to ``log``."""
    values = row.get(key, [])
    if key not in row:
        return None
    if not isinstance(values, list):
        log.add_wrong_type(values, key, "an array of one assistant message")
        return None
    if len(values) != 1:
        rule = f"has {len(values)} messages in {key}; it must hold one, from the assistant."
        log.add(rule, key)
        return None
    inside = log.of_message(1, key)
    message = conversation.read(values[0], inside)
    if message is None:
        return None
    if message.role != "assistant":
        role = quoted(values[0]["role"])
        inside.add(f"has role {role}; an output must be from the assistant.", "role")
    elif "weight" in values[0]:
        inside.refuse_extra(["weight"])
    return message


def _said(message: Message) -> tuple[str, list[tuple[str, str]]]:
    """Return what of an answer shows: the ids of calls do not."""
    return message.content or "", [(call.name, call.arguments) for call in message.tool_calls]
