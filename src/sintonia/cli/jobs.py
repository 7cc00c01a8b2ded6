"""``jobs``: the fine-tuning jobs of a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from sintonia import settings as settings_module
from sintonia.cli.background import connect, lasting_url
from sintonia.cli.client import Client, Json
from sintonia.cli.finetune import follow_to_the_end, hyperparameters_of
from sintonia.cli.homes import last_lines
from sintonia.cli.options import JobArgument, ServerOption
from sintonia.cli.output import console, duration, facts, moment, table
from sintonia.cli.progress import status_line
from sintonia.ids import is_id
from sintonia.runs.layout import AttemptFolder, RunFolder

app = typer.Typer(help="List, follow, pause and cancel fine-tuning jobs.", no_args_is_help=True)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many to show, newest first.")] = 20,
    server: ServerOption = None,
) -> None:
    """List the newest jobs."""
    with connect(settings_module.load(), server) as client:
        found = list(islice(client.jobs(), limit))
    if not found:
        console().print("No jobs yet. Create one with `sintonia finetune FILE`.")
        return
    columns = ("Job", "Status", "Created", "Model")
    console().print(table(columns, (_row(job) for job in found)))


@app.command()
def show(job_id: JobArgument, server: ServerOption = None) -> None:
    """Show everything about one job."""
    with connect(settings_module.load(), server) as client:
        job = client.job(job_id)
        checkpoints = list(client.checkpoints(job_id))
    console().print(facts(_facts(job)))
    if checkpoints:
        console().print(
            table(("Step", "Checkpoint", "Validation loss"), map(_checkpoint_row, checkpoints))
        )


@app.command()
def follow(job_id: JobArgument, server: ServerOption = None) -> None:
    """Follow a job to its end; Ctrl-C asks whether to cancel it."""
    settings = settings_module.load()
    with connect(settings, server) as client:
        follow_to_the_end(client, job_id, console(), lasting_url(settings, client))


@app.command()
def logs(
    job_id: JobArgument,
    lines: Annotated[int, typer.Option(min=1, help="Last lines of the trainer to show.")] = 40,
    server: ServerOption = None,
) -> None:
    """Show a job's events and the last lines that its trainer printed."""
    settings = settings_module.load()
    with connect(settings, server) as client:
        show_events(client, job_id)
    if server is not None:
        console().print("\nWhat the trainer printed lies in the home of that server.", style="dim")
        return
    show_output(settings.home, job_id, lines)


@app.command()
def cancel(job_id: JobArgument, server: ServerOption = None) -> None:
    """Cancel a job."""
    with connect(settings_module.load(), server) as client:
        job = client.cancel_job(job_id)
    console().print(f"Job {job['id']} is {job['status']}.")


@app.command()
def pause(job_id: JobArgument, server: ServerOption = None) -> None:
    """Pause a running job: it saves its work and frees its place."""
    with connect(settings_module.load(), server) as client:
        job = client.pause_job(job_id)
    console().print(f"Job {job['id']} is {job['status']}.")


@app.command()
def resume(job_id: JobArgument, server: ServerOption = None) -> None:
    """Let a paused job go on where it stopped."""
    with connect(settings_module.load(), server) as client:
        job = client.resume_job(job_id)
    console().print(f"Job {job['id']} is {job['status']}.")


def show_events(client: Client, job_id: str) -> None:
    """Print the job's messages, and the first and last of its metrics."""
    events = list(client.events(job_id))[::-1]
    for event in _without_most_metrics(events):
        level = "" if event["level"] == "info" else f"{event['level']}: "
        console().print(f"{moment(event['created_at'])}  {level}{event['message']}", soft_wrap=True)


def show_output(home: Path, job_id: str, lines: int) -> None:
    """Print the last lines of the newest attempt's output, when there is one."""
    attempt = newest_attempt(home, job_id)
    if attempt is None or not attempt.output.exists():
        console().print("\nNo trainer has been started for this job.", style="dim")
        return
    console().print(f"\nThe last lines of attempt {attempt.number}, {attempt.output}:", style="dim")
    console().print(last_lines(attempt.output, lines) or "(nothing)", soft_wrap=True)


def newest_attempt(home: Path, job_id: str) -> AttemptFolder | None:
    """Return the folder of the job's last trainer, when one was started here."""
    if not is_id(job_id):
        return None
    attempts = [
        AttemptFolder(path) for path in RunFolder(home / "runs" / job_id).path.glob("attempt-*")
    ]
    return max(attempts, key=lambda attempt: attempt.number, default=None)


def _without_most_metrics(events: list[Json]) -> Iterable[Json]:
    """Leave out metrics between others of their kind; full validations stay."""
    for before, event, after in zip([None, *events], events, [*events[1:], None], strict=False):
        is_between = _is_metrics(before) and _is_metrics(event) and _is_metrics(after)
        if not is_between or "full_valid_loss" in (event.get("data") or {}):
            yield event


def _is_metrics(event: Json | None) -> bool:
    return event is not None and event.get("type") == "metrics"


def _row(job: Json) -> tuple[object, ...]:
    return (
        job["id"],
        status_line(job),
        moment(job["created_at"]),
        job["fine_tuned_model"] or job["model"],
    )


def _facts(job: Json) -> list[tuple[str, object]]:
    chosen = hyperparameters_of(job)
    extra = job.get("sintonia") or {}
    origins = extra.get("origins") or {}
    error = job.get("error") or {}
    finished = job.get("finished_at")
    return [
        ("job", job["id"]),
        ("status", status_line(job)),
        ("error", error.get("message") and f"{error.get('code')}: {error['message']}"),
        ("method", (job.get("method") or {}).get("type")),
        ("model", job["model"]),
        ("base model", extra.get("base_model")),
        ("tuned model", job["fine_tuned_model"]),
        ("training file", job["training_file"]),
        ("validation file", job.get("validation_file")),
        ("result files", ", ".join(job["result_files"]) or None),
        *((name, _with_origin(value, origins.get(name))) for name, value in chosen.items()),
        *(
            (name, _with_origin(value, origins.get(name)))
            for name, value in _flat(extra.get("settings") or {})
        ),
        ("seed", job["seed"]),
        ("created", moment(job["created_at"])),
        ("estimated end", moment(job.get("estimated_finish"))),
        ("ended", moment(finished)),
        ("took", finished and duration(finished - job["created_at"])),
        ("trained tokens", job["trained_tokens"]),
        ("attempts", extra.get("attempt")),
        ("verdict", (extra.get("verdict") or {}).get("message")),
    ]


def _flat(settings: Json, outer: str = "") -> Iterator[tuple[str, object]]:
    """Yield each setting under the name that its origin has."""
    for name, value in settings.items():
        path = f"{outer}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")
        else:
            yield path, ", ".join(value) if isinstance(value, list) else value


def _with_origin(value: object, origin: str | None) -> str:
    return f"{value} ({origin})" if origin else str(value)


def _checkpoint_row(checkpoint: Json) -> tuple[object, ...]:
    metrics = checkpoint["metrics"]
    loss = metrics.get("full_valid_loss", metrics.get("valid_loss"))
    return (
        checkpoint["step_number"],
        checkpoint["fine_tuned_model_checkpoint"],
        None if loss is None else f"{loss:.4f}",
    )
