"""pydantic's findings in OpenAI's words: which parameter, what is allowed, and a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sintonia.errors import InvalidRequest, InvalidValue, UnknownParameter

Finding = Mapping[str, Any]
"""One of pydantic's error dictionaries: ``type``, ``loc``, ``msg``, ``input``, ``ctx``."""

TAG = "~"
"""Tags of unions begin with this sign, so that they can be left out of a parameter's path."""

_SHOWN_CHARACTERS = 100
_TOLD = 9
"""Problems beside the first that a message tells."""
_JSON_TYPES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def error_of(findings: Sequence[Finding], *, outer_parts: int = 0) -> InvalidRequest:
    """Return the error for the first finding, whose message tells those of other parameters too.

    ``outer_parts`` is how many parts at the beginning of a location are the framework's
    (``query``, ``path``).
    """
    errors: dict[str, InvalidRequest] = {}
    for finding in findings:
        param = param_of(finding["loc"][outer_parts:])
        if param not in errors:
            errors[param] = _BUILDERS.get(finding["type"], _other)(param, finding)
    first, *others = errors.values()
    told = [error.message for error in others[:_TOLD]]
    if len(others) > _TOLD:
        told.append(f"And {len(others) - _TOLD} more.")
    return type(first)(" ".join([first.message, *told]), param=first.param, code=first.code)


def param_of(location: Sequence[str | int]) -> str:
    """Return a path as OpenAI writes it: ``messages[0].content``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith(TAG):
            shown_part = part[:_SHOWN_CHARACTERS]
            path += f".{shown_part}" if path else shown_part
    return path


def _missing(param: str, _finding: Finding) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _unknown(param: str, _finding: Finding) -> InvalidRequest:
    shown = param[:_SHOWN_CHARACTERS]
    return UnknownParameter(
        f"Unrecognized request argument supplied: {shown}. Leave it out.", param=shown
    )


def _wrong_type(expected: str) -> Callable[[str, Finding], InvalidRequest]:
    def build(param: str, finding: Finding) -> InvalidRequest:
        got = _JSON_TYPES.get(type(finding["input"]), "something else")
        return InvalidRequest(
            f"Invalid type for '{param}': expected {expected}, but got {got} instead.",
            param=param,
            code="invalid_type",
        )

    return build


def _out_of_range(sign: str, bound: str, side: str) -> Callable[[str, Finding], InvalidRequest]:
    def build(param: str, finding: Finding) -> InvalidRequest:
        value, limit = finding["input"], finding["ctx"][bound]
        kind = "decimal" if isinstance(limit, float) or isinstance(value, float) else "integer"
        bounds = f"{sign} {limit:g}" if isinstance(limit, float) else f"{sign} {limit}"
        got = value[:_SHOWN_CHARACTERS] if isinstance(value, str) else shown(value)  # of a query
        return InvalidRequest(
            f"Invalid '{param}': {kind} {side}imum value. "
            f"Expected a value {bounds}, but got {got} instead.",
            param=param,
            code=f"{kind}_{side.replace(' ', '_')}_value",
        )

    return build


def _wrong_length(
    kind: str, word: str, bound: str, unit: str = "length"
) -> Callable[[str, Finding], InvalidRequest]:
    name = kind.rsplit(maxsplit=1)[-1]
    side = "maximum" if word == "too long" else "minimum"
    code = f"{name}_{'above_max' if side == 'maximum' else 'below_min'}_{unit}"

    def build(param: str, finding: Finding) -> InvalidRequest:
        length, limit = len(finding["input"]), finding["ctx"][bound]
        return InvalidRequest(
            f"Invalid '{param}': {name} {word}. Expected {kind} with {side} {unit} {limit}, "
            f"but got {kind} with {unit} {length} instead.",
            param=param,
            code=code,
        )

    return build


def _too_many_or_few(word: str, bound: str) -> Callable[[str, Finding], InvalidRequest]:
    array = _wrong_length("an array", word, bound)
    properties = _wrong_length("an object", word, bound, unit="properties")

    def build(param: str, finding: Finding) -> InvalidRequest:
        return (properties if isinstance(finding["input"], dict) else array)(param, finding)

    return build


def _not_allowed(param: str, finding: Finding) -> InvalidRequest:
    return InvalidValue(
        f"Invalid value for '{param}': {shown(finding['input'])}. "
        f"Supported values are: {finding['ctx']['expected']}.",
        param=param,
    )


def _own_rule(param: str, finding: Finding) -> InvalidRequest:
    """Use the text of a ``ValueError`` that a validator of ours raised."""
    return InvalidValue(f"Invalid '{param}': {finding['ctx']['error']}", param=param)


def _other(param: str, finding: Finding) -> InvalidRequest:
    return InvalidValue(f"Invalid '{param}': {finding['msg']}.", param=param)


def shown(value: Any) -> str:
    """Return a caller's value for a message, cut when it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


_OBJECT, _INTEGER, _DECIMAL = (
    _wrong_type(kind) for kind in ("an object", "an integer", "a decimal")
)

_BUILDERS: Mapping[str, Callable[[str, Finding], InvalidRequest]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "unexpected_keyword_argument": _unknown,
    "string_type": _wrong_type("a string"),
    "bool_type": _wrong_type("a boolean"),
    "list_type": _wrong_type("an array"),
    "tuple_type": _wrong_type("an array"),
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _DECIMAL,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "dataclass_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "greater_than_equal": _out_of_range(">=", "ge", "below min"),
    "greater_than": _out_of_range(">", "gt", "below min"),
    "less_than_equal": _out_of_range("<=", "le", "above max"),
    "less_than": _out_of_range("<", "lt", "above max"),
    "string_too_long": _wrong_length("a string", "too long", "max_length"),
    "string_too_short": _wrong_length("a string", "too short", "min_length"),
    "too_long": _too_many_or_few("too long", "max_length"),
    "too_short": _too_many_or_few("too short", "min_length"),
    "literal_error": _not_allowed,
    "enum": _not_allowed,
    "value_error": _own_rule,
}
