"""The messages of a chat request: wire to conversation.

The deprecated ``function_call`` and role ``function`` become a tool call and the ``tool`` message
that answers the latest call of that name, with the ids that reading a training file gives them:
the prompt is then the one that training saw.
"""

from __future__ import annotations

from collections.abc import Sequence

from sintonia.api.schemas.chat import ContentPart, MessageParam
from sintonia.domain.examples import Message, ToolCall
from sintonia.errors import InvalidRequest, InvalidValue, UnsupportedParameter


def conversation(messages: Sequence[MessageParam]) -> tuple[Message, ...]:
    """Return the conversation that ``messages`` are. Raises ``InvalidRequest``."""
    called: dict[str, str] = {}
    read = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.function_call is not None:
            called[message.function_call.name] = _function_call_id(place)
        calls = _calls(message, place)
        read.append(_message(message, calls, where, called))
    return tuple(read)


def _message(
    message: MessageParam, calls: tuple[ToolCall, ...], where: str, called: dict[str, str]
) -> Message:
    content = _content(message, where)
    if message.role == "function":
        if message.name is None:
            raise _missing(f"{where}.name")
        return Message("tool", content or "", tool_call_id=called.get(message.name))
    if message.role == "tool" and message.tool_call_id is None:
        raise _missing(f"{where}.tool_call_id")
    if content is None and not calls:
        raise _missing(f"{where}.content")
    return Message(
        role=message.role,
        content=content,
        name=message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
    )


def _calls(message: MessageParam, place: int) -> tuple[ToolCall, ...]:
    """Return the calls that a message makes, in either spelling."""
    old, new = message.function_call, message.tool_calls or []
    given = {"tool_calls": bool(new), "function_call": old is not None}
    for key, is_given in given.items():
        if is_given and message.role != "assistant":
            param = f"messages[{place}].{key}"
            raise InvalidValue(
                f"Invalid '{param}': only assistant messages call tools. Leave it out.",
                param=param,
            )
    if all(given.values()):
        param = f"messages[{place}].function_call"
        raise InvalidValue(
            f"Invalid '{param}': the message has tool_calls too. Leave function_call out.",
            param=param,
        )
    if old is not None:
        return (ToolCall(_function_call_id(place), old.name, old.arguments),)
    return tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in new)


def _function_call_id(place: int) -> str:
    """Return the id that a call without one gets: by the number of its message, from 1."""
    return f"function_call_{place + 1}"


def _content(message: MessageParam, where: str) -> str | None:
    """Return a message's text: its parts joined, or the assistant's refusal."""
    if not isinstance(message.content, list):
        return message.content or message.refusal or message.content
    texts = [
        _part_text(part, f"{where}.content[{place}]") for place, part in enumerate(message.content)
    ]
    return "".join(texts)


def _part_text(part: ContentPart, where: str) -> str:
    texts = {"text": part.text, "refusal": part.refusal}
    if part.type not in texts:
        raise UnsupportedParameter(
            f"Invalid '{where}.type': this model reads no {part.type[:50]!r} parts. "
            "Supported values are: 'text' and 'refusal'.",
            param=f"{where}.type",
        )
    text = texts[part.type]
    if text is None:
        raise _missing(f"{where}.{part.type}")
    return text


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )
