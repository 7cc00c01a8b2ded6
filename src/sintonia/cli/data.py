"""``data``: look at a file of examples before anything is trained on it. Needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sintonia import settings as settings_module
from sintonia.cli.library import open_library
from sintonia.cli.options import DEFAULT_MODEL
from sintonia.cli.output import console, error_console, facts, print_note, size
from sintonia.data.formats import method_of
from sintonia.data.renderer import Renderer
from sintonia.data.validate import validate, with_method
from sintonia.domain.datasets import MIN_EXAMPLES, DatasetReport, Problem
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidData, ModelNotFound
from sintonia.settings import Settings

PROBLEMS_SHOWN = 10
"""How many problems a command shows that did not come to look for them."""

app = typer.Typer(help="Check files of examples.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``check`` a subcommand: Typer would drop the name of a group's only command."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Count tokens as this base model does.")
    ] = DEFAULT_MODEL,
) -> None:
    """Check a training file: every problem with its place, and what the file holds."""
    report = validate(file, renderer=renderer_of(settings_module.load(), model))
    show_report(report, console())
    if not report.is_valid:
        raise typer.Exit(1)


def renderer_of(settings: Settings, model: str) -> Renderer | None:
    """Return the renderer of a base model or alias; ``None``, with a note, when it is not here.

    Raises ``ModelNotFound`` for a name that nobody knows.
    """
    library = open_library(settings)
    name = library.catalog.resolve(model).base
    if not library.knows(name):
        raise ModelNotFound(model)
    base = library.find(name)
    if base is None:
        print_note(
            f"Tokens are not counted: model {model} is not here. "
            f"`sintonia models pull {model}` fetches it."
        )
        return None
    return Renderer.from_folder(Path(base.ref.folder))


def show_report(report: DatasetReport, screen: Console) -> None:
    """Print what a file holds and every problem that was kept."""
    screen.print(
        facts(
            [
                ("file", report.path),
                ("format", report.format),
                ("method", method_of(report.format) if report.format else None),
                ("examples", f"{report.num_examples:,}"),
                ("size", size(report.size_bytes)),
                ("tokens", _count(report.num_tokens)),
                ("learned tokens", _count(report.num_learned_tokens)),
                ("longest example", _count(report.longest_row_tokens, " tokens")),
            ]
        )
    )
    for warning in report.warnings:
        screen.print(f"Warning: {warning}", style="yellow", soft_wrap=True)
    if report.is_valid:
        screen.print("The file is good to train on.", style="green")
        return
    show_problems(report, screen)


def show_problems(report: DatasetReport, screen: Console, limit: int | None = None) -> None:
    """Print each problem with its place: those that were kept, or the first ``limit``."""
    count = report.num_problems
    shown = report.problems[:limit]
    screen.print(f"\n{count} problem{'s' if count != 1 else ''}:", style="bold red")
    for problem in shown:
        screen.print(f"  {place(problem)}{problem.message}", soft_wrap=True)
    if count > len(shown):
        screen.print(f"  ... and {count - len(shown)} more.")


def place(problem: Problem) -> str:
    """Return where a problem is, with a colon, or nothing when the whole file is meant."""
    parts = (
        None if problem.line is None else f"line {problem.line}",
        problem.field,
    )
    found = ", ".join(part for part in parts if part)
    return f"{found}: " if found else ""


def refuse_bad_file(
    path: Path,
    method: MethodType | None = None,
    *,
    called: str = "Training file",
    min_examples: int = MIN_EXAMPLES,
) -> MethodType:
    """Return the method that a good file is for; a given ``method`` has to be that one.

    Raises ``InvalidData`` for a file with problems, after printing them on standard error.
    ``called`` is what messages call it.
    """
    report = validate(path, min_examples=min_examples, called=called)
    if method is not None:
        report = with_method(report, method, path.name)
    if report.is_valid and report.format is not None:
        return method_of(report.format)
    show_problems(report, error_console(), PROBLEMS_SHOWN)
    raise InvalidData(
        f"File {path}: it cannot be trained on as it is; nothing was uploaded. "
        f"`sintonia data check {path}` shows every problem."
    )


def _count(number: int | None, unit: str = "") -> str | None:
    return None if number is None else f"{number:,}{unit}"
