"""``finetune``: from a file to a tuned model in one command."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.prompt import Prompt

from sintonia import settings as settings_module
from sintonia.cli import choices
from sintonia.cli.background import connect, lasting_url
from sintonia.cli.choices import (
    AlphaOption,
    LearningRateOption,
    LearnOption,
    OptimizerOption,
    RankOption,
    ScheduleOption,
    SetOption,
    TuningOption,
)
from sintonia.cli.client import Client, Json
from sintonia.cli.data import refuse_bad_file
from sintonia.cli.follow import follow
from sintonia.cli.library import fetch_with_bar, open_library
from sintonia.cli.options import DEFAULT_MODEL, ModelOption, ServerOption, check_number
from sintonia.cli.output import console, facts, print_note
from sintonia.cli.progress import job_view
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidValue, Problems, SintoniaError, TrainerFailed
from sintonia.runs.plan import linear_layers
from sintonia.settings import Settings

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    training_file: Path
    validation_file: Path | None
    model: str
    suffix: str | None
    seed: int | None
    hyperparameters: Mapping[str, Any]
    """Only those that were given; the platform chooses the others."""
    method: MethodType = MethodType.SUPERVISED
    extension: Mapping[str, Any] = field(default_factory=dict)
    """The ``sintonia`` object; only what was given."""

    def request(self, training_id: str, validation_id: str | None) -> Json:
        """Return the body of the request that creates the job."""
        chosen: Json = {
            "model": self.model,
            "training_file": training_id,
            "validation_file": validation_id,
            "suffix": self.suffix,
            "seed": self.seed,
            "sintonia": dict(self.extension) or None,
            "method": {
                "type": self.method.value,
                self.method.value: {"hyperparameters": dict(self.hyperparameters)},
            },
        }
        return {name: value for name, value in chosen.items() if value is not None}


FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Training rows, JSONL.")
]
ValidOption = Annotated[
    Path | None,
    typer.Option("--valid", metavar="FILE", exists=True, dir_okay=False, help="Validation rows."),
]


def finetune(
    file: FileArgument,
    *,
    valid: ValidOption = None,
    model: ModelOption = DEFAULT_MODEL,
    suffix: Annotated[str | None, typer.Option(help="Part of the tuned model's name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the file, 1 to 50.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step, 1 to 256.")] = None,
    learning_rate_multiplier: Annotated[
        float | None, typer.Option(help="Scales the base model's own learning rate.")
    ] = None,
    method: Annotated[
        MethodType | None,
        typer.Option(help="How to learn; the shape of the rows tells it.", show_default=False),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="DPO: how closely the model stays to its start, up to 2."),
    ] = None,
    tuning: TuningOption = None,
    rank: RankOption = None,
    alpha: AlphaOption = None,
    optimizer: OptimizerOption = None,
    learning_rate: LearningRateOption = None,
    schedule: ScheduleOption = None,
    learn: LearnOption = None,
    set_: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable.")] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut rows longer than the model's context.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "--no-follow", help="Create the job and return.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Tune a model on a file of examples and follow the job to its end."""
    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": learning_rate_multiplier,
        "beta": beta,
    }
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    options = {
        "tuning": tuning,
        "lora.rank": rank,
        "lora.alpha": alpha,
        "optimizer.name": optimizer,
        "optimizer.learning_rate": learning_rate,
        "schedule.name": schedule,
        "learn": learn,
        "truncate": truncate or None,
    }
    extension = choices.extension(set_, options)
    rates = {
        "--learning-rate-multiplier": learning_rate_multiplier,
        "--beta": beta,
        "--learning-rate": learning_rate,
    }
    settings, screen = settings_module.load(), console()
    layers = known_layers(settings, model, server)
    method = refuse_what_is_wrong(Given(file, valid, method, given, extension, rates, layers))
    order = Order(file, valid, model, suffix, seed, given, method, extension)
    if server is None and not detach:
        fetch_base(settings, model, screen)
    with connect(settings, server) as client:
        job = create_job(client, order)
        screen.print(f"Job {job['id']} tunes {job['model']} on {file.name}.")
        if detach:
            screen.print(f"Follow it with `sintonia jobs follow {job['id']}`.")
            return
        follow_to_the_end(client, job["id"], screen, lasting_url(settings, client))


@dataclass(frozen=True)
class Given:
    """What of a command line can be wrong before anything is sent."""

    training_file: Path
    validation_file: Path | None
    method: MethodType | None
    hyperparameters: Mapping[str, Any]
    extension: Mapping[str, Any]
    rates: Mapping[str, float | None]
    layers: tuple[str, ...] | None
    """Of the base model, where it is known here."""


def refuse_what_is_wrong(given: Given) -> MethodType:
    """Return the method of a job that can be asked for.

    Raises ``InvalidRequest`` that names all that is wrong with both files and the settings;
    what is wrong with rows was printed before.
    """
    problems, method = Problems(), given.method
    for option, rate in given.rates.items():
        with problems.collecting():
            check_number(option, rate, above=0)
    with problems.collecting():
        method = refuse_bad_file(given.training_file, given.method)
    if given.validation_file is not None:
        with problems.collecting():
            refuse_bad_file(given.validation_file, method, called="Validation file", min_examples=1)
    beta = given.hyperparameters.get("beta")
    if beta is not None and method is MethodType.SUPERVISED:
        text = f"--beta {beta:g}: method {method} has none. Leave it out."
        problems.found.append(InvalidValue(text))
    method = method or MethodType.SUPERVISED  # of a file that tells none, which is refused
    problems.found += choices.problems_of(
        given.extension,
        method,
        given.hyperparameters,
        has_validation=given.validation_file is not None,
        layers=given.layers,
    )
    problems.raise_if_any()
    return method


def known_layers(settings: Settings, model: str, server: str | None) -> tuple[str, ...] | None:
    """Return the layers of a base model that is here; another server may have another one."""
    library = open_library(settings)
    base = library.find(library.catalog.resolve(model).base) if server is None else None
    return linear_layers(Path(base.ref.folder)) if base else None


def fetch_base(settings: Settings, model: str, screen: Console) -> None:
    """Fetch a base model that is not here yet, in sight; the job would wait for it anyway."""
    library = open_library(settings)
    name = library.catalog.resolve(model).base
    if library.knows(name):
        fetch_with_bar(library, name, screen)


def create_job(client: Client, order: Order) -> Json:
    """Upload the files and create the job; without a job the files are deleted again."""
    uploaded: list[str] = []
    try:
        uploaded.append(client.upload(order.training_file)["id"])
        validation_id = None
        if order.validation_file is not None:
            validation_id = client.upload(order.validation_file)["id"]
            uploaded.append(validation_id)
        return client.create_job(order.request(uploaded[0], validation_id))
    except BaseException:  # Ctrl-C too
        for file_id in uploaded:
            with suppress(SintoniaError):  # the reason to tell is the first one
                client.delete_file(file_id)
        raise


def follow_to_the_end(client: Client, job_id: str, screen: Console, url: str) -> None:
    """Show a job until it ends and say how it ended; Ctrl-C asks what to do with it.

    ``url`` is shown as the place to ask the model. Raises ``TrainerFailed`` for a job that
    failed, ``typer.Exit`` for one that was cancelled or left.
    """
    try:
        with job_view(screen) as view:
            job = follow(client, job_id, view)
    except KeyboardInterrupt:
        _interrupted(client, job_id, screen)
        raise typer.Exit(INTERRUPTED) from None
    conclude(client, job, screen, url)


def conclude(client: Client, job: Mapping[str, Any], screen: Console, url: str) -> None:
    """Say how a job ended. Raises like :func:`follow_to_the_end`."""
    if job["status"] == "failed":
        raise TrainerFailed(why_failed(job))
    if job["status"] == "cancelled":
        screen.print(f"Job {job['id']} was cancelled.")
        raise typer.Exit(1)
    if job["status"] == "paused":
        command = f"sintonia jobs resume {job['id']}"
        screen.print(f"Job {job['id']} is paused; `{command}` lets it go on.")
        return
    name = job["fine_tuned_model"]
    screen.print()
    screen.print("Tuned model: ", style="bold", end="")
    screen.print(name, style="bold green", soft_wrap=True)
    screen.print(facts(_results(client, job)))
    screen.print(how_to_use(url, name), soft_wrap=True)


def how_to_use(url: str, model: str) -> str:
    """Return the ways to ask a model."""
    return (
        f"\nTalk to it:      sintonia chat {model}\n"
        f"Serve it:        sintonia serve\n"
        f'From Python:     client = OpenAI(base_url="{url}/v1", api_key="none")\n'
        f'                 client.chat.completions.create(model="{model}", messages=[...])'
    )


def _results(client: Client, job: Mapping[str, Any]) -> list[tuple[str, object]]:
    chosen = hyperparameters_of(job)
    metrics = _last_metrics(client, job["id"])
    return [
        ("epochs", chosen.get("n_epochs")),
        ("batch size", chosen.get("batch_size")),
        ("learning rate multiplier", chosen.get("learning_rate_multiplier")),
        ("beta", chosen.get("beta")),
        ("trained tokens", job.get("trained_tokens")),
        ("training loss", _rounded(metrics.get("train_loss"))),
        ("validation loss", _rounded(metrics.get("full_valid_loss", metrics.get("valid_loss")))),
        ("validation pairs told apart", _rounded(metrics.get("full_valid_reward_accuracy"))),
        (
            "validation token accuracy",
            _rounded(
                metrics.get(
                    "full_valid_mean_token_accuracy", metrics.get("valid_mean_token_accuracy")
                )
            ),
        ),
    ]


def hyperparameters_of(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a job's hyperparameters, whatever its method."""
    method = job.get("method") or {}
    of_method = method.get(method.get("type")) or {}
    return of_method.get("hyperparameters") or job.get("hyperparameters") or {}


def _last_metrics(client: Client, job_id: str) -> Mapping[str, Any]:
    for event in client.events(job_id):
        if event.get("type") == "metrics" and event.get("data"):
            return dict(event["data"])
    return {}


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def why_failed(job: Mapping[str, Any]) -> str:
    """Return how a job ended that did not succeed, why, and where to look."""
    error = job.get("error") or {}
    code = error.get("code") or "server_error"
    message = error.get("message") or "the server gave no reason."
    return (
        f"Job {job['id']} failed ({code}): {message}\nMore is in `sintonia jobs logs {job['id']}`."
    )


def _interrupted(client: Client, job_id: str, screen: Console) -> None:
    if sys.stdin.isatty():
        answer = Prompt.ask(
            f"\nCancel {job_id}, or leave it running?",
            choices=["cancel", "leave"],
            default="leave",
            console=screen,
        )
        if answer == "cancel":
            client.cancel_job(job_id)
            screen.print(f"Job {job_id} is cancelled.")
            return
    print_note(
        f"Job {job_id} goes on. Follow it with `sintonia jobs follow {job_id}`, "
        f"end it with `sintonia jobs cancel {job_id}`."
    )
