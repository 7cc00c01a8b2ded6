"""Options that say how a job trains, and the ``sintonia`` object that they make.

Invariant: what the command line takes is checked as the server checks it, before anything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sintonia.domain.choices import Learn, OptimizerName, ScheduleName, Tuning, read_extension
from sintonia.domain.conflicts import conflicts_of
from sintonia.domain.methods import AUTO, Hyperparameters, Method, MethodType
from sintonia.errors import InvalidRequest, InvalidValue
from sintonia.runs.plan import unknown_targets

Json = dict[str, Any]

TuningOption = Annotated[
    Tuning | None, typer.Option(help="An adapter or every weight.", show_default=False)
]
RankOption = Annotated[int | None, typer.Option(help="LoRA: the adapter's rank.")]
AlphaOption = Annotated[float | None, typer.Option(help="LoRA: scales the update by alpha/rank.")]
OptimizerOption = Annotated[
    OptimizerName | None, typer.Option(help="Its name.", show_default=False)
]
LearningRateOption = Annotated[
    float | None, typer.Option(help="The peak, instead of a multiplier of the base model's own.")
]
ScheduleOption = Annotated[
    ScheduleName | None,
    typer.Option(help="How the learning rate changes.", show_default=False),
]
LearnOption = Annotated[
    Learn | None, typer.Option(help="Every answer of a row or its last.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE|FILE.json",
        help="Any other setting, such as lora.dropout=0.05; may be repeated.",
        show_default=False,
    ),
]


def extension(given: Iterable[str] | None, options: Mapping[str, object]) -> Json:
    """Return the ``sintonia`` object: ``given`` names and files in order, then ``options``.

    Names have dots where the object is nested; ``None`` was not given.
    Raises ``InvalidValue`` for what is neither a name with a value nor a readable file.
    """
    made: Json = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        if not sign:
            _merge(made, _read(Path(text)))
            continue
        _put(made, name, _value(value))
    for name, chosen in options.items():
        if chosen is not None:
            _put(made, name, chosen)
    return made


def problems_of(
    chosen: Mapping[str, Any],
    method: MethodType,
    hyperparameters: Mapping[str, Any],
    *,
    has_validation: bool,
    layers: tuple[str, ...] | None = None,
) -> list[InvalidRequest]:
    """Return an error for everything in ``chosen`` that the server would refuse.

    ``layers`` are those of the base model, where it is known.
    """
    multiplier = hyperparameters.get("learning_rate_multiplier", AUTO)
    known = Hyperparameters(learning_rate_multiplier=multiplier)
    extension, problems = read_extension(chosen)
    asked = Method(method, known, extension.choices)
    problems += conflicts_of(asked, has_validation=has_validation)
    return problems + (unknown_targets(asked.choices, layers) if layers else [])


def _read(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InvalidValue(
            f"--set {path}: it is neither NAME=VALUE nor a file that can be read "
            f"({problem.strerror}). Write, for example, --set lora.dropout=0.05."
        ) from None
    except ValueError as problem:
        raise InvalidValue(f"--set {path}: the file is not JSON: {problem}.") from None
    if not isinstance(found, dict):
        raise InvalidValue(f"--set {path}: the file must hold one JSON object.")
    return found


def _value(text: str) -> object:
    """Return a value as JSON reads it; what is not JSON is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(target: Json, name: str, value: object) -> None:
    *outer, last = name.split(".")
    place = target
    for part in outer:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InvalidValue(f"--set {name}: {part} has the value {inner!r} already. Give one.")
        place = inner
    place[last] = value


def _merge(target: Json, more: Json) -> None:
    for name, value in more.items():
        before = target.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        else:
            target[name] = value
