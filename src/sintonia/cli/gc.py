"""``gc``: what the home's disk holds, and what of it can go. Needs no server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.prompt import Confirm

from sintonia import settings as settings_module
from sintonia.cli.homes import ServerFolder
from sintonia.cli.output import console, size, table

if TYPE_CHECKING:
    from sintonia.jobs.disk import Item


def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> None:
    """Show what the disk holds and remove what nothing needs any more."""
    # Not at start-up: the database's packages would slow every other command.
    from sintonia.jobs import disk
    from sintonia.store import Store

    settings = settings_module.load()
    ServerFolder(settings.home).make()
    with closing(Store.open(settings)) as store:
        items = disk.survey(settings, store)
    screen = console()
    show(items, screen)
    removable = [item for item in items if item.can_go]
    if not removable:
        screen.print("Nothing can go.")
        return
    if not (yes or _is_wanted(removable, screen)):
        screen.print("Nothing was removed. `sintonia gc --yes` removes what can go.")
        return
    screen.print(f"{size(disk.remove(removable))} are free again.")


def show(items: Sequence[Item], screen: Console) -> None:
    """Print everything that takes space, the largest first, and the sums."""
    ordered = sorted(items, key=lambda item: (not item.can_go, -item.size_bytes))
    rows = (
        ("yes" if item.can_go else "no", item.kind, size(item.size_bytes), item.name, item.why)
        for item in ordered
    )
    screen.print(table(("Can go", "Kind", "Size", "Name", "Why"), rows))
    total = sum(item.size_bytes for item in items)
    removable = sum(item.size_bytes for item in items if item.can_go)
    screen.print(f"{size(total)} in all, {size(removable)} can go.")


def _is_wanted(removable: Sequence[Item], screen: Console) -> bool:
    if not sys.stdin.isatty():
        return False
    question = f"Remove {len(removable)} of them?"
    return Confirm.ask(question, default=False, console=screen)
