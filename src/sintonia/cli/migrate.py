"""``migrate``: everything of an account brought into this home, and its jobs trained again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sintonia import failpoints
from sintonia import settings as settings_module
from sintonia.cli.background import connect
from sintonia.cli.client import Client, Json
from sintonia.cli.finetune import INTERRUPTED
from sintonia.cli.homes import ServerFolder
from sintonia.cli.options import ServerOption
from sintonia.cli.output import console, print_note, size, table
from sintonia.errors import AlreadyRunning, InvalidValue, RemoteError
from sintonia.settings import Settings

if TYPE_CHECKING:
    from sintonia.migration.move import Tally, Watch
    from sintonia.migration.pace import Pace
    from sintonia.migration.remote import Remote
    from sintonia.migration.report import Report
    from sintonia.migration.rerun import Wishes

app = typer.Typer(help="Move in from OpenAI, or from another server.", no_args_is_help=True)

SHOWN_LOSSES = 20
SHOWN_EVERY = 50
"""Of how many things a line is shown where there is no terminal."""


@app.command()
def openai(
    base_url: Annotated[
        str, typer.Option("--base-url", metavar="URL", help="The server to read.")
    ] = "https://api.openai.com/v1",
    api_key_env: Annotated[
        str,
        typer.Option("--api-key-env", metavar="NAME", help="Environment variable with its key."),
    ] = "OPENAI_API_KEY",
    project: Annotated[
        str | None, typer.Option("--project", metavar="ID", help="Read this project.")
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=32, help="Requests at once.")
    ] = 4,
    patience: Annotated[
        float,
        typer.Option("--patience", min=0, metavar="SECONDS", help="How long to retry a request."),
    ] = 600.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what there is; store nothing.")
    ] = False,
) -> None:
    """Read files, jobs, events, checkpoints and results of an account into this home.

    Run it again at any time: it goes on where it was interrupted, and brings what is new.
    """
    # Not at start-up: the database's packages would slow every other command.
    from sintonia.migration.pace import Pace
    from sintonia.migration.remote import Address, Remote
    from sintonia.migration.remote import base_url as checked_url

    settings, url = settings_module.load(), checked_url(base_url)
    failpoints.arm(settings.failpoint)
    address = Address(url, key_of(url, api_key_env), project)
    pace = Pace(patience)
    with Remote(address, pace, connections=parallel) as remote:
        if dry_run:
            show_counts(remote)
            return
        ServerFolder(settings.home).make()
        with only_one(settings.home):
            bring_over(settings, remote, pace, parallel)


def key_of(url: str, variable: str) -> str | None:
    """Return the key of the environment; a server on this machine may need none.

    Raises ``InvalidValue``.
    """
    from sintonia.migration.remote import is_loopback

    key = os.environ.get(variable, "").strip()
    if not key and not is_loopback(url):
        raise InvalidValue(
            f"Environment variable {variable}: it is not set, and {url} asks for a key. "
            f"Set it, or name another variable with --api-key-env."
        )
    if not key.isascii() or not key.isprintable():
        raise InvalidValue(f"Environment variable {variable}: what it holds is no key.")
    return key or None


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Be the only migration into a home. Raises ``AlreadyRunning``."""
    with (home / "migration-run.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"Home {home}: another migration into it is going on. Wait for it to end."
            ) from None
        yield


def bring_over(settings: Settings, remote: Remote, pace: Pace, parallel: int) -> None:
    """Migrate, write the report and say how it went, however it ended."""
    from sintonia.migration import report as reports
    from sintonia.migration.move import Migration
    from sintonia.store import Store

    screen, odd = console(), None
    with closing(Store.open(settings)) as store:
        try:
            with progress_on(screen) as watch:
                odd = Migration(remote, store, pace, parallel, watch).run()
        except KeyboardInterrupt:
            print_note("Interrupted. Nothing is lost: the same command goes on from here.")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            report = reports.report_of(store.manifest, remote.url, odd)
            place = reports.write(settings.home / reports.FOLDER, report, store.manifest)
            show_report(report, place, screen)


@contextmanager
def progress_on(screen: Console) -> Iterator[Watch]:
    """Give what shows how far a migration is: a bar on a terminal, lines elsewhere."""
    if not screen.is_terminal:
        yield Lines(screen).show
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Progress(*columns, console=screen) as progress:
        task = progress.add_task("listing", total=None, facts="")

        def show(tally: Tally) -> None:
            done = tally.files + tally.jobs + tally.lost
            total = None if tally.phase == "listing" else done + tally.left
            progress.update(
                task, description=tally.phase, completed=done, total=total, facts=words(tally)
            )

        yield show


@dataclass
class Lines:
    """Plain lines: the beginning of each phase, and now and then how far it is."""

    screen: Console
    phase: str = ""
    shown: int = 0

    def show(self, tally: Tally) -> None:
        """Print a line when there is something new to say."""
        done = tally.files + tally.jobs + tally.lost
        if tally.phase == self.phase and done < self.shown + SHOWN_EVERY:
            return
        self.phase, self.shown = tally.phase, done
        known = f": {words(tally)}, {tally.left:,} to go" if not tally.is_listing else ""
        self.screen.print(f"{tally.phase}{known}")


def words(tally: Tally) -> str:
    """Return how far a migration is."""
    lost = f", {tally.lost:,} cannot be had" if tally.lost else ""
    return f"{tally.files:,} files ({size(tally.bytes)}), {tally.jobs:,} jobs{lost}"


def show_report(report: Report, place: Path, screen: Console) -> None:
    """Print what is here, and what cannot be had."""
    from sintonia.domain.imported import ItemKind, ItemState
    from sintonia.migration.report import NOT_WHOLE, WEIGHTS, cannot_be_had

    states = (ItemState.DONE, ItemState.OPEN, ItemState.LOST, ItemState.LISTED)
    rows = [(f"{kind}s", *(report.counts[kind, state] for state in states)) for kind in ItemKind]
    columns = ("", "Here", "Not ended there", "Cannot be had", "Still to be read")
    screen.print(table(columns, rows))
    lines = cannot_be_had(report)
    if report.models:
        lines = [f"{WEIGHTS} ({len(report.models):,} models)", *lines]
    if lines:
        screen.print("Cannot be had:", style="bold")
    for line in lines[:SHOWN_LOSSES]:
        screen.print(f"  {line}", soft_wrap=True)
    if len(lines) > SHOWN_LOSSES:
        screen.print(f"  and {len(lines) - SHOWN_LOSSES:,} more")
    if not report.is_whole:
        screen.print(NOT_WHOLE)
    screen.print(f"The whole report: {place} (and .json beside it)", soft_wrap=True)


def show_counts(remote: Remote) -> None:
    """Print what a server has."""
    from sintonia.migration.survey import count

    counts = count(remote)
    rows: list[tuple[object, ...]] = [
        (f"files, {purpose}", number, size(counts.bytes[purpose]))
        for purpose, number in sorted(counts.files.items())
    ]
    rows += [(f"jobs, {status}", number, None) for status, number in sorted(counts.jobs.items())]
    rows += [("files in all", counts.files.total(), size(counts.bytes.total()))]
    rows += [("jobs in all", counts.jobs.total(), None)]
    console().print(table((remote.url, "Number", "Size"), rows))
    console().print(
        f"{counts.models:,} tuned models: their weights cannot be had, their jobs can be run "
        "again. Whether a file's content can be had shows when it is read: OpenAI refuses it for "
        "assistants, vision and user_data. Nothing was stored.",
        soft_wrap=True,
    )


@app.command()
def rerun(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="A job that was brought over.")
    ] = None,
    *,
    all_: Annotated[
        bool,
        typer.Option("--all", help="Every job that succeeded there and was not run again yet."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Base; else the one its name stands for."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Keep numbers that the other server chose, too.")
    ] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Leave every hyperparameter to this server.")
    ] = False,
    take_name: Annotated[
        bool, typer.Option("--take-name", help="Let the new model answer to the old one's name.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Train a job again here: same files, same method and hyperparameters, same seed."""
    if (job_id is None) != all_:
        raise InvalidValue("Name one job, or give --all.")
    if resolved and auto:
        raise InvalidValue("--resolved and --auto: give one of them.")
    if take_name and server is not None:
        raise InvalidValue("--take-name: it works on the home alone. Leave --server out.")
    from sintonia.migration.rerun import Wishes

    settings, wishes = settings_module.load(), Wishes(model, resolved, auto)
    with connect(settings, server) as client:
        ids = [job_id] if job_id is not None else not_run_yet(client)
        refused = 0
        for one in ids:
            try:
                run_again(client, one, wishes, settings if take_name else None)
            except (InvalidValue, RemoteError) as problem:
                if not all_:
                    raise
                console().print(problem.message, soft_wrap=True)
                refused += 1
    if all_:
        console().print(f"{len(ids) - refused:,} of {len(ids):,} jobs are created.")
    if refused:
        raise typer.Exit(1)


def not_run_yet(client: Client) -> list[str]:
    """Return the jobs that were brought over, succeeded, and have no live successor here.

    The oldest come first: later ones may go on from their models.
    """
    succeeded, repeated = [], set()
    for job in client.jobs():
        if is_imported(job):
            succeeded += [job["id"]] if job["status"] == "succeeded" else []
        elif job["status"] not in ("failed", "cancelled"):
            repeated.add((job.get("metadata") or {}).get("rerun_of"))
    return [job_id for job_id in reversed(succeeded) if job_id not in repeated]


def run_again(client: Client, job_id: str, wishes: Wishes, settings: Settings | None) -> None:
    """Create a job again; with ``settings`` its model takes the old one's name in that home.

    Raises ``InvalidValue`` and ``RemoteError`` that say what stands in the way.
    """
    from sintonia.migration.rerun import rerun_request

    job = _job(client, job_id)
    request, old_name = rerun_request(job, wishes), job.get("fine_tuned_model")
    if settings is not None and not old_name:
        raise InvalidValue(f"Job {job_id}: it made no model, so there is no name to take over.")
    try:
        created = client.create_job(request)
    except RemoteError as problem:
        raise InvalidValue(f"Job {job_id} cannot be run again: {_why(problem, job)}") from None
    console().print(f"Job {created['id']} runs {job_id} again, on {created['model']}.")
    if job.get("integrations"):
        print_note(f"{job_id} had integrations; there are none here.")
    if settings is not None:
        take_over(settings, str(old_name), created["id"])


def _job(client: Client, job_id: str) -> Json:
    try:
        return client.job(job_id)
    except RemoteError as problem:
        if problem.http_status != 404:
            raise
        raise InvalidValue(
            f"Job {job_id} is not here. `sintonia jobs list` shows the jobs that there are; "
            "`sintonia migrate openai` brings those of another server."
        ) from None


def take_over(settings: Settings, name: str, job_id: str) -> None:
    """Let the model that a job will make answer to ``name`` as well."""
    from sintonia.store import Store

    with closing(Store.open(settings)) as store:
        store.models.take_name(name, job_id)
    console().print(f"Once it has succeeded, {name} is answered by its model.", soft_wrap=True)


def is_imported(job: Json) -> bool:
    """Tell whether a job was brought over, and never runs here."""
    return bool((job.get("sintonia") or {}).get("imported_from"))


def _why(problem: RemoteError, job: Json) -> str:
    if problem.code != "model_not_available":
        return problem.message
    if str(job.get("model")).startswith("ft:"):
        return (
            f"it went on from {job['model']}, whose weights are not here. Run the job that made "
            "that model again with --take-name and let it end, or name a base with --model."
        )
    return f"{problem.message} --model names another base."
