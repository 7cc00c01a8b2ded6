"""What every command's screen has in common: consoles, tables, sizes and times in words.

Texts of users and of files are shown as they are: markup is off on every console, so that
a row with ``[brackets]`` cannot change the colours or break the screen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table

from sintonia.errors import SintoniaError

PIPE_COLUMNS = 400
NOTHING = "-"
"""Stands in a cell that has no value."""


def console() -> Console:
    """Return a console on standard output; into a pipe no line is broken to fit a screen."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(markup=False, highlight=False, emoji=False, width=width)


def error_console() -> Console:
    """Return a console on standard error."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def print_error(error: SintoniaError) -> None:
    """Show an error in words on standard error."""
    screen = error_console()
    screen.print("Error: ", style="bold red", end="")
    screen.print(error.message, soft_wrap=True)


def print_note(text: str) -> None:
    """Show a remark that is no result, on standard error."""
    error_console().print(text, style="dim", soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """Return a table of texts, the first column on one line; ``None`` shows as a dash."""
    shown = Table(
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        pad_edge=False,
    )
    for index, name in enumerate(columns):  # a name that is cut cannot be copied
        shown.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in rows:
        shown.add_row(*(NOTHING if cell is None else str(cell) for cell in row))
    return shown


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Return names and values in two columns without lines; pairs without a value are left out."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            shown.add_row(name, str(value))
    return shown


def size(size_bytes: float) -> str:
    """Return a size in words: ``93.1 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def duration(seconds: float) -> str:
    """Return a length of time in words: ``3 min 12 s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def clock(seconds: float) -> str:
    """Return a length of time as a clock shows it: ``3:12``, ``1:03:12``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(unix_seconds: int | None) -> str | None:
    """Return a time in the machine's own zone, to the minute, or ``None``."""
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
