"""JSON as RFC 8259 means it: the values that Python's parser lets through are refused.

Refused are NaN and infinities, numbers that overflow, integers beyond 64 bits, keys that occur
twice, nesting deeper than ``MAX_DEPTH`` and, in ``bad_text``, characters that no storage takes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from sintonia.data.problems import quoted

MAX_DEPTH = 64
"""How deep arrays and objects may nest."""
MAX_STRUCTURE = 250_000
"""How many brackets and commas one text may hold: each can cost a hundred bytes once parsed."""

_MAX_INTEGER_DIGITS = 20
_PATH_KEY_CHARACTERS = 40
_CONTAINERS = frozenset({list, dict})
_ESCAPED_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BAD_CHARACTER = re.compile("[\0\ud800-\udfff]")


def decode(text: str) -> Any:
    """Parse one JSON text.

    Raises ``json.JSONDecodeError`` for text that is not JSON, and a plain ``ValueError`` whose
    text is the rule for JSON that is refused.
    """
    brackets = text.count("[") + text.count("{")
    if brackets + text.count(",") > MAX_STRUCTURE:
        raise ValueError(f"it has more than {MAX_STRUCTURE:,} brackets and commas")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    if brackets > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(_too_deep())
    return value


def bad_text(source: str, value: Any) -> tuple[str, str] | None:
    """Return the path and the rule of the first string in ``value`` that cannot be kept as text.

    ``source`` is the text that ``value`` was parsed from; most sources hold no suspicious
    escape, and then nothing is walked.
    """
    if not _ESCAPED_SUSPECT.search(source):
        return None
    for path, text in _strings(value):
        found = _BAD_CHARACTER.search(text)
        if found is None:
            continue
        if found[0] == "\0":
            return path, "holds a NUL character"
        return path, f"holds a lone surrogate \\u{ord(found[0]):04x}, which is no character"
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            break
        seen.add(key)
    raise ValueError(f"key {_printable(key)} occurs twice in one object")


def _integer(digits: str) -> int:
    if len(digits) <= _MAX_INTEGER_DIGITS and -(2**63) <= (value := int(digits)) < 2**63:
        return value
    raise ValueError(f"integer {_cut(digits)} does not fit in 64 bits")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"number {_cut(digits)} is too large")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)


def _depth(value: Any) -> int:
    """Return how deep ``value`` nests, giving up just past ``MAX_DEPTH``."""
    level, depth = [value] if type(value) in _CONTAINERS else [], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) in _CONTAINERS
        ]
    return depth


def _strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in ``value`` with its path, and keys with the path of their object."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path, key
            short = key[:_PATH_KEY_CHARACTERS]
            yield from _strings(item, f"{path}.{short}" if path else short)


def _too_deep() -> str:
    return f"it nests deeper than {MAX_DEPTH} levels"


def _cut(digits: str) -> str:
    return digits if len(digits) <= 24 else f"{digits[:20]}... ({len(digits):,} characters)"


def _printable(key: str) -> str:
    return quoted(_BAD_CHARACTER.sub("\ufffd", key))
