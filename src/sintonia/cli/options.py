"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The base model of commands that name none."""

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Server to talk to; without it the one of SINTONIA_HOME, started when none runs.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str, typer.Option("--model", metavar="NAME", help="Base model, alias or tuned model.")
]
JobArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Job, as `sintonia jobs list` shows it.")
]
