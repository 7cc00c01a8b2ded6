"""The base models of the home, opened for a command, and the bar that shows a fetch."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sintonia import catalog
from sintonia.bases.library import BaseModel, Library
from sintonia.settings import Settings


def open_library(settings: Settings) -> Library:
    """Return the library of the home in force, with the operator's aliases."""
    return Library(
        settings.home,
        catalog.load(settings.aliases),
        embedded_wheel=settings.embedded_wheel,
    )


def fetch_with_bar(library: Library, name: str, console: Console) -> BaseModel:
    """Fetch a model unless it is there, showing how far it is. Raises like ``Library.fetch``."""
    found = library.find(name)
    if found is not None:
        return found
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=1.0)

        def show(what: str, part: float) -> None:
            progress.update(task, description=f"{name}: {what}", completed=part)

        return library.fetch(name, show)
