"""The text of a chat message: a string, or an array of parts that are joined."""

from __future__ import annotations

from typing import Any

from sintonia.data.problems import RowLog, quoted

_TEXT_KEY_OF_PART = {"text": "text", "refusal": "refusal"}
_OTHER_MEDIA = {"image_url": "images", "input_audio": "audio", "file": "files"}


def read_content(value: Any, role: str, log: RowLog) -> str | None:
    """Return the text of ``content``, or ``None`` when problems were added to ``log``."""
    if type(value) is str:
        return value
    if not isinstance(value, list):
        log.add_wrong_type(value, "content", "a string or an array of text parts")
        return None
    if not value:
        log.add("has an empty array as content; give a string.", "content")
        return None
    texts = [_part_text(part, f"content[{i}]", role, log) for i, part in enumerate(value)]
    good = [text for text in texts if text is not None]
    return "".join(good) if len(good) == len(texts) else None


def _part_text(part: Any, path: str, role: str, log: RowLog) -> str | None:
    if not isinstance(part, dict):
        log.add_wrong_type(part, path, "an object")
        return None
    kind = part.get("type")
    if rule := _refusal_of_type(kind, role):
        log.add(f"has {path} of type {quoted(kind)}; {rule}.", f"{path}.type")
        return None
    key = _TEXT_KEY_OF_PART[str(kind)]
    log.refuse_extra((known for known in part if known not in ("type", key)), path)
    text = part.get(key)
    if isinstance(text, str):
        return text
    log.add_wrong_type(text, f"{path}.{key}", "a string")
    return None


def _refusal_of_type(kind: Any, role: str) -> str | None:
    """Return why a part of type ``kind`` is refused in a message of ``role``, if it is."""
    if not isinstance(kind, str) or kind not in _TEXT_KEY_OF_PART | _OTHER_MEDIA:
        return 'it must be "text"'
    if kind in _OTHER_MEDIA:
        return f'the model reads no {_OTHER_MEDIA[kind]}, only "text" is allowed'
    if kind == "refusal" and role != "assistant":
        return "only assistant messages may hold a refusal"
    return None
