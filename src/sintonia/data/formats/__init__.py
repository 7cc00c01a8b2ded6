"""The shapes a row may have: one file each, and the folder is the registry.

A format is a module with

- ``NAME``, which is also its file's name,
- ``METHOD``: the training method that learns from its rows,
- ``matches(row)``: whether a row is meant to be of this format, judged by its keys alone,
- ``parse(row, log)``: the row's ``Example``, or ``None`` when problems were added to ``log``;
  it never stops at the first problem.

A new format is a new file here. No two formats match the same row of good data.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Protocol, cast

from sintonia import plugins
from sintonia.data.problems import RowLog
from sintonia.domain.examples import Example
from sintonia.domain.methods import MethodType


class Format(Protocol):
    """What a module of this folder offers."""

    NAME: str
    METHOD: MethodType

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Tell by its keys whether ``row`` is meant to be of this format."""

    def parse(self, row: Mapping[str, Any], log: RowLog) -> Example | None:
        """Return the example, or ``None`` when problems of the row were added to ``log``."""


@cache
def all_formats() -> tuple[Format, ...]:
    """Return the formats of this folder, by name."""
    package = sys.modules[__name__]
    return tuple(cast("Format", plugins.load(package, name)) for name in plugins.names(package))


def format_of(row: Mapping[str, Any]) -> Format | None:
    """Return the format that ``row`` is meant to be of, if any."""
    return next((known for known in all_formats() if known.matches(row)), None)


def named(name: str) -> Format:
    """Return the format that is called ``name``."""
    return {known.NAME: known for known in all_formats()}[name]


def method_of(name: str) -> MethodType:
    """Return the method that learns from files of the format ``name``."""
    return named(name).METHOD


def detect_format(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the name of the format of the first row that has one."""
    found = (format_of(row) for row in rows)
    return next((known.NAME for known in found if known is not None), None)
