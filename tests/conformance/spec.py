"""What an answer may look like by OpenAI's specification, and where one departs from it.

Every object is closed: a field that the specification does not know is a departure, as a missing
or a mistyped one is. A departure is named after the schema that it belongs to and not after the
answer it was seen in, so that the list of deliberate ones stays short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

FACTS = Path(__file__).with_name("openai.json")
ERROR_SCHEMA = "ErrorResponse"

_REF = "#/components/schemas/"
_TYPES: Mapping[type, str] = {
    type(None): "null",
    bool: "a boolean",
    str: "a string",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
}


@dataclass(frozen=True, order=True)
class Operation:
    """A method and a path with its parameters in braces, without the base URL."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, order=True)
class Departure:
    """One way in which an answer is not what the specification says."""

    where: str
    """Schema and path: ``FineTuningJob.error.code``, ``ListFilesResponse.data[].id``."""
    what: str
    """``unknown``, ``missing``, ``null``, ``a string`` (a wrong type), ``value 'paused'``."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Spec:
    """The facts of ``openai.json``."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document: Mapping[str, Any] = closed(dict(document))
        self.operations = tuple(
            Operation(method.upper(), path)
            for path, item in document["paths"].items()
            for method in item
        )

    @cached_property
    def _patterns(self) -> Sequence[tuple[re.Pattern[str], str]]:
        """Return the paths as expressions, those with the most fixed parts first."""
        paths = sorted({o.path for o in self.operations}, key=_looseness)
        return [(re.compile(_expression(path)), path) for path in paths]

    def operation(self, method: str, path: str) -> Operation:
        """Return the operation that a call means; a path that none has is its own operation."""
        plain = path.partition("?")[0]
        for pattern, template in self._patterns:
            if pattern.fullmatch(plain) and Operation(method, template) in self.operations:
                return Operation(method, template)
        return Operation(method, plain)

    def answer_schema(
        self, operation: Operation, status: int, kind: str
    ) -> Mapping[str, Any] | None:
        """Return the schema of an answer, or ``None`` where the specification has none."""
        if status >= 400:
            return {"$ref": f"{_REF}{ERROR_SCHEMA}"}
        item = self._document["paths"].get(operation.path, {}).get(operation.method.lower(), {})
        content = item.get("responses", {}).get(str(status), {}).get("content", {})
        found = content.get(kind) or content.get("application/json")
        return found and found["schema"]

    def departures(self, schema: Mapping[str, Any], value: Any, name: str) -> set[Departure]:
        """Return how ``value`` departs from ``schema``; ``name`` stands for an unnamed schema."""
        whole = {**schema, "components": self._document["components"]}
        validator = Draft202012Validator(whole)
        found: set[Departure] = set()
        for error in validator.iter_errors(value):
            for leaf in _leaves(error):
                found |= _departures_of(leaf, self._place(leaf, schema, name))
        return found

    def _place(self, error: ValidationError, schema: Mapping[str, Any], name: str) -> str:
        """Return where in which named schema an error is."""
        place, node, parts = name, schema, list(error.absolute_schema_path)[:-1]
        for number, part in enumerate(parts):
            place, node = self._followed(place, node)
            node = node[part]
            before = parts[number - 1] if number else None
            place += _step(part, before)
        is_of_the_object = error.validator in ("additionalProperties", "required")
        return self._followed(place, node)[0] if is_of_the_object or not parts else place

    def _followed(self, place: str, node: Any) -> tuple[str, Any]:
        while isinstance(node, Mapping) and "$ref" in node:
            place = node["$ref"].removeprefix(_REF)
            node = self._document["components"]["schemas"][place]
        return place, node


@cache
def load() -> Spec:
    """Return the specification's facts."""
    return Spec(json.loads(FACTS.read_text(encoding="utf-8")))


def closed(node: Any) -> Any:
    """Return a schema, or anything that holds some, in which no object takes unknown fields."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    inner = {key: closed(value) for key, value in node.items()}
    is_object = isinstance(node.get("properties"), dict) and node.get("type", "object") == "object"
    if is_object:
        inner.setdefault("additionalProperties", False)
        inner["type"] = "object"
    return inner


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """Yield the errors inside a union's error: those of the branch that fits best."""
    branches: dict[int, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    if not branches:
        yield error
        return
    for inner in min(branches.values(), key=_misfit):
        yield from _leaves(inner)


def _misfit(errors: Sequence[ValidationError]) -> tuple[bool, int]:
    """Return how far a branch is from what was meant: another kind of value, then more errors."""
    is_other_kind = any(
        not error.relative_path and error.validator in ("type", "enum", "const") for error in errors
    )
    return is_other_kind, len(errors)


def _departures_of(error: ValidationError, place: str) -> set[Departure]:
    value, rule = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            unknown = set(value) - set(error.schema["properties"])
            return {Departure(f"{place}.{name}", "unknown") for name in unknown}
        case "required":
            return {Departure(f"{place}.{name}", "missing") for name in set(rule) - set(value)}
        case "type":
            return {Departure(place, _TYPES[type(value)])}
        case "enum" | "const":
            return {Departure(place, "null" if value is None else f"value {value!r}")}
        case other:
            return {Departure(place, f"{other} {rule!r}" if len(repr(rule)) < 30 else str(other))}


def _step(part: str | int, before: str | int | None) -> str:
    """Return what one step into a schema adds to a place."""
    if before == "properties":
        return f".{part}"
    steps = {"items": "[]", "additionalProperties": ".*"}
    return steps.get(str(part), "")


def _looseness(path: str) -> tuple[int, int]:
    return path.count("{"), -len(path)


def _expression(path: str) -> str:
    """Return a path as an expression; the names of models hold slashes."""
    parts = re.split(r"\{(\w+)\}", path)
    signs = {"model": ".+", "fine_tuned_model_checkpoint": ".+"}
    return "".join(
        signs.get(part, "[^/]+") if number % 2 else re.escape(part)
        for number, part in enumerate(parts)
    )
