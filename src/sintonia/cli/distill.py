"""``distill``: from answers that a server stored to a training file, and to a smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sintonia import settings as settings_module
from sintonia.cli import choices
from sintonia.cli.background import connect, lasting_url
from sintonia.cli.choices import SetOption
from sintonia.cli.client import Json
from sintonia.cli.finetune import follow_to_the_end
from sintonia.cli.options import ServerOption, check_number
from sintonia.cli.output import console, facts
from sintonia.errors import InvalidValue

REASONS = {
    "cut_off": "cut off by their limit of tokens",
    "empty": "empty",
    "invalid": "no valid training row",
    "duplicate": "there already",
}
"""Words for why answers became no row."""


def distill(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Only answers of this model.", show_default=False
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            metavar="KEY=VALUE",
            help="Only answers with this pair; may be given several times.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many completions, the newest.")
    ] = None,
    all_choices: Annotated[
        bool,
        typer.Option("--all-choices", help="Take every answer of a completion, not the first."),
    ] = False,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Write the same row once only.")
    ] = False,
    validation: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Part of the rows for a validation file, as 0.1."),
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option(min=0, help="Chooses which rows those are.", show_default=False)
    ] = None,
    out_name: Annotated[
        str | None,
        typer.Option("--out-name", metavar="NAME", help="Name of the file.", show_default=False),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option("--train", metavar="BASE", help="Tune this model on the file."),
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the tuned model's name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the file, 1 to 50.")] = None,
    set_: SetOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", "--no-follow", help="Create the job and return.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Turn answers that were made with store=true into a training file; --train learns from it."""
    check_number("--validation", validation, above=0, below=1)
    request = {
        "model": model,
        "metadata": pairs_of(metadata or ()),
        "limit": limit,
        "choices": "all" if all_choices else None,
        "deduplicate": deduplicate or None,
        "validation_fraction": validation,
        "seed": split_seed,
        "filename": out_name,
        "job": job_of(train, suffix, epochs, choices.extension(set_, {})),
    }
    settings, screen = settings_module.load(), console()
    with connect(settings, server) as client:
        made = client.distill({key: value for key, value in request.items() if value is not None})
        screen.print(facts(facts_of(made)))
        job = made["job"]
        if job is None:
            return
        screen.print(f"Job {job['id']} tunes {job['model']} on {made['training_file']['id']}.")
        if detach:
            screen.print(f"Follow it with `sintonia jobs follow {job['id']}`.")
            return
        follow_to_the_end(client, job["id"], screen, lasting_url(settings, client))


def pairs_of(texts: Sequence[str]) -> dict[str, str] | None:
    """Return ``KEY=VALUE`` texts as a mapping, ``None`` without any. Raises ``InvalidValue``."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not key or not sign or key in pairs:
            raise InvalidValue(f"--metadata {text}: give KEY=VALUE, each key once.")
        pairs[key] = value
    return pairs or None


def job_of(
    train: str | None, suffix: str | None, epochs: int | None, extension: Json
) -> Json | None:
    """Return the parameters of the job to begin, if one is. Raises ``InvalidValue``."""
    chosen: dict[str, Any] = {"suffix": suffix, "sintonia": extension or None}
    if epochs is not None:
        parameters = {"hyperparameters": {"n_epochs": epochs}}
        chosen["method"] = {"type": "supervised", "supervised": parameters}
    given = {name: value for name, value in chosen.items() if value is not None}
    if train is None and given:
        raise InvalidValue(
            "--suffix, --epochs and --set are for a job. Name its base with --train."
        )
    return None if train is None else {"model": train, **given}


def facts_of(made: Json) -> list[tuple[str, object]]:
    """Return what a distillation made, for people."""
    counts, validation = made["counts"], made["validation_file"]
    left_out = counts["left_out"].items()
    return [
        ("completions", f"{counts['matched']:,}"),
        ("training rows", f"{counts['training']:,}"),
        ("training file", made["training_file"]["id"]),
        ("validation rows", f"{counts['validation']:,}" if validation else None),
        ("validation file", validation and validation["id"]),
        *(("left out", f"{number:,} {REASONS.get(why, why)}") for why, number in left_out),
    ]
