"""The command line, put together from its groups."""

from __future__ import annotations

import platform

import typer

from sintonia.cli import data, files, gc, jobs, migrate, models
from sintonia.cli.chat import chat
from sintonia.cli.demo import demo
from sintonia.cli.finetune import finetune
from sintonia.cli.output import console
from sintonia.cli.serve import serve, stop
from sintonia.cli.show_settings import show_settings
from sintonia.cli.version import version

app = typer.Typer(
    name="sintonia",
    help="Make GPT-style language models your own, through OpenAI's API, on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def show_version() -> None:
    """Show the version."""
    console().print(f"sintonia {version()} on Python {platform.python_version()}")


app.command()(demo)
app.command()(finetune)
app.command()(chat)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(files.app, name="files")
app.add_typer(data.app, name="data")
app.add_typer(migrate.app, name="migrate")
app.command()(serve)
app.command()(stop)
app.command("gc")(gc.gc)
app.command("settings")(show_settings)
app.command("version")(show_version)
