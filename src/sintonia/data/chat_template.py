"""A sandbox for chat templates, which are programs that come with a model.

The environment equals the one that transformers uses (trimmed blocks, ``tojson`` without HTML
escapes, ``raise_exception``, ``{% generation %}``), so that templates render the same text. Only
``strftime_now`` is missing on purpose: a prompt that holds today's date would be learned as one
and served as another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sintonia.errors import InvalidValue, RefusedModel

_SHOWN_CHARACTERS = 300


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for others' masks; here it is plain."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(text: str) -> Template:
    """Compile a chat template. Raises ``RefusedModel`` for one that is not Jinja."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(text)
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError) as problem:
        raise RefusedModel(f"The chat template cannot be read: {_said(problem)}") from None


def render(template: Template, values: Mapping[str, Any]) -> str:
    """Return what ``template`` writes. Raises ``InvalidValue`` when it raises anything."""
    try:
        text = template.render(**values)
        text.encode()  # a template can write half a character, which no tokenizer takes
    except Exception as problem:  # noqa: BLE001 - a foreign program: it can raise anything
        raise InvalidValue(
            f"the model's chat template refuses the conversation: {_said(problem)}",
            param="messages",
        ) from None
    return text


def _said(problem: Exception) -> str:
    """Return what a template's error says, short enough and fit to be sent."""
    text = str(problem) or type(problem).__name__
    return text[:_SHOWN_CHARACTERS].encode(errors="replace").decode()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,  # the signature that templates know
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
