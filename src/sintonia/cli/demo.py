"""``demo``: from a file to a tuned model that answers, through the official SDK alone.

The base model is fetched, tuned on the example tickets, and both are asked the same held-out
questions. What it makes stays in the home: `sintonia serve` has the model afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from sintonia import settings as settings_module
from sintonia.cli.background import connect, lasting_url
from sintonia.cli.finetune import how_to_use, why_failed
from sintonia.cli.follow import follow
from sintonia.cli.library import fetch_with_bar, open_library
from sintonia.cli.options import DEFAULT_MODEL, ServerOption
from sintonia.cli.output import console, duration, table
from sintonia.cli.progress import job_view
from sintonia.cli.sdk import SdkJobs, open_sdk
from sintonia.cli.tickets import (
    Question,
    Score,
    find_examples,
    is_right,
    parse_ticket,
    read_questions,
    score,
)
from sintonia.errors import TrainerFailed
from sintonia.evaluation.statistics import Interval

SEED = 7
SHOWN = 6
"""How many questions are shown side by side."""
SHOWN_CHARACTERS = 110


class Language(StrEnum):
    """The example sets."""

    EN = "en"
    PT = "pt"


EPOCHS = {Language.EN: 3, Language.PT: 5}
"""The base model knows little Portuguese, so the same task takes more rounds."""


@dataclass(frozen=True)
class Plan:
    """What the demo is to do."""

    folder: Path
    epochs: int
    model: str = DEFAULT_MODEL
    suffix: str = "tickets"


@dataclass
class Stopwatch:
    """The stages of the demo and how long each took."""

    stages: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        began = time.monotonic()
        yield
        self.stages.append((name, time.monotonic() - began))


@dataclass(frozen=True)
class Result:
    """One model's answers to the held-out questions."""

    model: str
    answers: tuple[str, ...]
    score: Score


def demo(
    epochs: Annotated[
        int | None, typer.Option(min=1, max=50, help="3 for English, 5 for Portuguese.")
    ] = None,
    language: Annotated[Language, typer.Option(help="Example set: English or Portuguese.")] = (
        Language.EN
    ),
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Folder with train, valid and test rows."),
    ] = None,
    server: ServerOption = None,
) -> None:
    """Tune the embedded model on example tickets and compare it with its base."""
    plan = Plan(find_examples(language, folder), epochs or EPOCHS[language])
    settings = settings_module.load()
    screen, watch = console(), Stopwatch()
    open_sdk("http://127.0.0.1").close()  # say at once when the package is missing
    if server is None:
        with watch.stage("fetching the model"):
            fetch_with_bar(open_library(settings), plan.model, screen)
    with ExitStack() as stack:
        with watch.stage("starting the server"):
            client = stack.enter_context(connect(settings, server))
        _, tuned = run(plan, client.url, screen, watch)
        screen.print(how_to_use(lasting_url(settings, client), tuned.model), soft_wrap=True)


def run(plan: Plan, url: str, screen: Console, watch: Stopwatch) -> tuple[Result, Result]:
    """Tune, ask, compare and tell, through the SDK alone; return the base's and tuned results."""
    with open_sdk(url) as sdk:
        jobs = SdkJobs(sdk, url)
        with watch.stage("tuning"):
            job = tune(plan, jobs, screen)
        questions = read_questions(plan.folder / "test.jsonl")
        with watch.stage(f"asking {plan.model}"):
            base = examine(plan.model, questions, jobs, screen)
        with watch.stage(f"asking {job['fine_tuned_model']}"):
            tuned = examine(job["fine_tuned_model"], questions, jobs, screen)
    screen.print(side_by_side(questions, base, tuned))
    screen.print(score_table((base, tuned)))
    screen.print(", ".join(f"{name} {duration(seconds)}" for name, seconds in watch.stages))
    return base, tuned


def tune(plan: Plan, jobs: SdkJobs, screen: Console) -> Mapping[str, Any]:
    """Upload the rows, create the job and follow it. Raises ``TrainerFailed``."""
    job_id = jobs.create(
        model=plan.model,
        training_file=jobs.upload(plan.folder / "train.jsonl"),
        validation_file=jobs.upload(plan.folder / "valid.jsonl"),
        suffix=plan.suffix,
        seed=SEED,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": plan.epochs}},
        },
    )
    with job_view(screen) as view:
        job = follow(jobs, job_id, view)
    if job["status"] != "succeeded":
        raise TrainerFailed(why_failed(job))
    return job


def examine(model: str, questions: Sequence[Question], jobs: SdkJobs, screen: Console) -> Result:
    """Ask a model every question, several at once."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    with Progress(*columns, console=screen) as progress:
        task = progress.add_task(f"asking {model}", total=len(questions))
        answers = jobs.answers(model, questions, lambda: progress.advance(task))
    return Result(model, tuple(answers), score(questions, answers))


def side_by_side(questions: Sequence[Question], base: Result, tuned: Result) -> Table:
    """Return some questions with the answers of both models."""
    shown = Table(
        "Question",
        "Right",
        "Base model",
        "Tuned model",
        title="The same held-out questions",
        title_justify="left",
        header_style="bold",
        show_lines=True,
    )
    stride = max(1, len(questions) // SHOWN)
    for index in list(range(0, len(questions), stride))[:SHOWN]:
        question = questions[index]
        shown.add_row(
            _short(question.text),
            _compact(question.expected),
            _marked(question, base.answers[index]),
            _marked(question, tuned.answers[index]),
        )
    return shown


def score_table(results: Sequence[Result]) -> Table:
    """Return the score of each model with its 95 % interval (Wilson)."""
    rows = (
        (
            name,
            _share(result.score.right, result.score.tickets, result.score.ticket_interval),
            _share(result.score.right_fields, result.score.fields, result.score.field_interval),
            result.model,
        )
        for name, result in zip(("base", "tuned"), results, strict=True)
    )
    columns = ("", "Whole tickets right", "Fields right", "Model")
    return table(columns, rows, title="Score, with its 95 % interval")


def _share(right: int, total: int, interval: Interval) -> str:
    return f"{right / total:.0%} ({interval.low:.0%} to {interval.high:.0%}), {right} of {total}"


def _marked(question: Question, answer: str) -> str:
    mark = "✓" if is_right(question, answer) else "✗"
    ticket = parse_ticket(answer)
    return f"{mark} {_short(answer) if ticket is None else _compact(ticket)}"


def _compact(ticket: Mapping[str, Any]) -> str:
    return " · ".join(str(value) for value in ticket.values())


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[:SHOWN_CHARACTERS].rstrip()} ..."
