"""Tools that a chat row offers and the calls its assistant makes, old spelling included.

``functions`` and ``function_call``, OpenAI's deprecated names, become tools and tool calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sintonia.data import strict_json
from sintonia.data.problems import RowLog, json_type, quoted
from sintonia.domain.examples import ToolCall

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAME_RULE = "1 to 64 letters, digits, underscores and dashes"
_TYPE_OF_KEY: Mapping[str, type] = {"description": str, "parameters": dict, "strict": bool}
_EXPECTED = {str: "a string", dict: "an object", bool: "true or false"}


def read_tools(row: Mapping[str, Any], log: RowLog) -> tuple[Mapping[str, Any], ...]:
    """Return the tools of ``row`` in today's form; problems go to ``log``."""
    tools, functions = row.get("tools"), row.get("functions")
    if tools is None and functions is None:
        return ()
    if tools is not None and functions is not None:
        log.add("has both tools and functions; functions is deprecated, keep tools.", "functions")
    key, values = ("functions", functions) if tools is None else ("tools", tools)
    if not isinstance(values, list):
        log.add_wrong_type(values, key, "an array")
        return ()
    read = _read_function if tools is None else _read_tool
    found = [read(value, f"{key}[{index}]", log) for index, value in enumerate(values)]
    names = [function.get("name") for function in found]
    for index, name in _repeated(names):
        log.add(f"has two {key} named {quoted(name)}; give each its own.", f"{key}[{index}]")
    return tuple({"type": "function", "function": function} for function in found)


def read_tool_calls(value: Any, log: RowLog) -> tuple[ToolCall, ...]:
    """Return the calls of one assistant message; problems go to ``log``."""
    if not isinstance(value, list):
        log.add_wrong_type(value, "tool_calls", "an array")
        return ()
    calls = [_read_tool_call(call, f"tool_calls[{i}]", log) for i, call in enumerate(value)]
    for index, call_id in _repeated(call.id for call in calls):
        rule = f"has two tool calls with the id {quoted(call_id)}; give each its own."
        log.add(rule, f"tool_calls[{index}].id")
    return tuple(calls)


def read_function_call(value: Any, log: RowLog) -> ToolCall:
    """Return the call that a deprecated ``function_call`` makes; problems go to ``log``."""
    return _read_call(value, f"function_call_{log.message}", "function_call", log)


def _read_tool(tool: Any, path: str, log: RowLog) -> Mapping[str, Any]:
    if not _is_typed_function(tool, ("type", "function"), path, log):
        return {}
    return _read_function(tool["function"], f"{path}.function", log)


def _read_function(function: Any, path: str, log: RowLog) -> Mapping[str, Any]:
    if not isinstance(function, dict):
        log.add_wrong_type(function, path, "an object")
        return {}
    log.refuse_extra((k for k in function if k != "name" and k not in _TYPE_OF_KEY), path)
    _check_name(function, path, log)
    for key, expected in _TYPE_OF_KEY.items():
        value = function.get(key)
        if value is not None and not isinstance(value, expected):
            log.add_wrong_type(value, f"{path}.{key}", _EXPECTED[expected])
    return function


def _read_tool_call(call: Any, path: str, log: RowLog) -> ToolCall:
    if not _is_typed_function(call, ("id", "type", "function"), path, log):
        return ToolCall(id="", name="", arguments="")
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        log.add(f"has {path} without an id; it must be a string.", f"{path}.id")
        call_id = ""
    return _read_call(call["function"], call_id, f"{path}.function", log)


def _read_call(value: Any, call_id: str, path: str, log: RowLog) -> ToolCall:
    if not isinstance(value, dict):
        log.add_wrong_type(value, path, "an object")
        return ToolCall(id=call_id, name="", arguments="")
    log.refuse_extra((key for key in value if key not in ("name", "arguments")), path)
    _check_name(value, path, log)
    if "arguments" not in value:
        log.add(f"is missing key arguments in {path}; use '{{}}' for none.", f"{path}.arguments")
    elif rule := _arguments_rule(value["arguments"]):
        log.add(f"has {path}.arguments {rule}.", f"{path}.arguments")
    return ToolCall(id=call_id, name=str(value.get("name")), arguments=str(value.get("arguments")))


def _is_typed_function(value: Any, keys: tuple[str, ...], path: str, log: RowLog) -> bool:
    """Check the outer object of a tool or of a call; tell whether it holds a function."""
    if not isinstance(value, dict):
        log.add_wrong_type(value, path, "an object")
        return False
    log.refuse_extra((key for key in value if key not in keys), path)
    if value.get("type") != "function":
        shown = quoted(value.get("type"))
        log.add(f'has {path}.type {shown}; it must be "function".', f"{path}.type")
    if "function" not in value:
        log.add(f"is missing key function in {path}.", f"{path}.function")
    return "function" in value


def _check_name(function: Mapping[str, Any], path: str, log: RowLog) -> None:
    name = function.get("name")
    if "name" not in function:
        log.add(f"is missing key name in {path}.", f"{path}.name")
    elif not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        log.add(f"has {path}.name {quoted(name)}; a name has {_NAME_RULE}.", f"{path}.name")


def _arguments_rule(arguments: Any) -> str | None:
    """Return what is wrong with the arguments of a call, if anything is."""
    if not isinstance(arguments, str):
        return f"of type {json_type(arguments)}; they must be a string that holds a JSON object"
    try:
        value = strict_json.decode(arguments)
    except json.JSONDecodeError as error:
        return f"that are not valid JSON: {error}"
    except ValueError as error:
        return f"that are refused: {error}"
    if not isinstance(value, dict):
        return f"that hold a JSON {json_type(value)}; they must hold a JSON object"
    found = strict_json.bad_text(arguments, value)
    return f"that are refused: a string {found[1]}" if found else None


def _repeated(names: Iterable[Any]) -> list[tuple[int, str]]:
    """Return the non-empty strings among ``names`` that occurred before, with their places."""
    seen: set[str] = set()
    again: list[tuple[int, str]] = []
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            continue
        if name in seen:
            again.append((index, name))
        seen.add(name)
    return again
