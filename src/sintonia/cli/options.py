"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from sintonia.errors import InvalidValue

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


def check_number(
    option: str, value: float | None, *, above: float = -math.inf, below: float = math.inf
) -> None:
    """Raise ``InvalidValue`` unless a given ``value`` is finite and between the two, neither.

    JSON knows neither infinity nor not-a-number, so no server could be asked with them.
    """
    if value is None or (math.isfinite(value) and above < value < below):
        return
    sides = {"above": above, "below": below}
    bounds = " and".join(
        f" {side} {bound:g}" for side, bound in sides.items() if math.isfinite(bound)
    )
    raise InvalidValue(f"{option} {value:g}: must be a finite number{bounds}.")
