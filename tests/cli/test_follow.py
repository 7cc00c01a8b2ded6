"""Following a job: each event once, in order, through restarts of the server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from sintonia.cli import follow as follow_module
from sintonia.cli.follow import follow
from sintonia.cli.progress import BarView, LineView, Training, status_line
from sintonia.errors import RemoteError, ServerUnreachable, SintoniaError


@dataclass
class Script:
    """A job that moves on by one stage with every look; an error stage is raised."""

    stages: list[tuple[str, list[dict[str, Any]]] | SintoniaError]
    happened: list[dict[str, Any]] = field(default_factory=list)

    def job(self, job_id: str) -> dict[str, Any]:
        stage = self.stages.pop(0)
        if isinstance(stage, SintoniaError):
            raise stage
        self.happened += stage[1]
        return {"id": job_id, "status": stage[0]}

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        return iter(self.happened[::-1])


def message(number: int, text: str, level: str = "info") -> dict[str, Any]:
    return {"id": f"ftevent-{number}", "type": "message", "level": level, "message": text}


def metrics(number: int, step: int, **data: Any) -> dict[str, Any]:
    found = {"step": step, "total_steps": 100, "train_loss": 1.0 / step, **data}
    event = {"id": f"ftevent-{number}", "type": "metrics", "level": "info"}
    return {**event, "created_at": 1000 + step // 2, "data": found}


def followed(script: Script) -> str:
    screen = Console(file=io.StringIO(), width=100, markup=False)
    follow(script, "ftjob-1", LineView(screen), poll_seconds=0.0)
    return screen.file.getvalue()


def test_each_event_is_shown_once_and_in_order():
    script = Script(
        [
            ("validating_files", [message(1, "one"), message(2, "two")]),
            ("queued", []),
            ("running", [message(3, "three [bold]raw[/bold]")]),
            ("succeeded", [message(4, "four")]),
        ]
    )

    lines = followed(script).splitlines()

    shown = [line for line in lines if not line.startswith("[")]
    assert shown == ["one", "two", "three [bold]raw[/bold]", "four"]


def test_a_server_that_is_away_for_a_while_is_waited_for():
    away = ServerUnreachable("No server answers.")
    restarting = RemoteError("Starting.", http_status=503)
    script = Script([("queued", [message(1, "one")]), away, away, restarting, ("succeeded", [])])

    text = followed(script)

    assert text.count("does not answer at the moment") == 1


def test_a_server_that_stays_away_ends_the_following(monkeypatch):
    monkeypatch.setattr(follow_module, "PATIENCE_SECONDS", 0.001)
    script = Script([ServerUnreachable("gone for good")] * 1000)

    with pytest.raises(ServerUnreachable, match="for good"):
        followed(script)


def test_a_job_that_does_not_exist_is_not_waited_for():
    script = Script([RemoteError("Could not find fine tune: x", http_status=404)])

    with pytest.raises(RemoteError, match="Could not find"):
        followed(script)


def test_lines_show_some_steps_and_every_full_validation():
    steps = [metrics(step, step) for step in range(1, 101)]
    steps[41]["data"]["full_valid_loss"] = 0.5

    text = followed(Script([("succeeded", steps)]))

    assert 20 <= text.count("step ") <= 22
    assert "step 42/100  loss 0.024 valid 0.500" in text.replace("  valid", " valid")


def test_the_bar_shows_loss_pace_and_messages_in_eighty_columns():
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, markup=False)
    with Progress(console=screen) as progress:
        view = BarView(progress)
        script = Script(
            [
                (
                    "running",
                    [
                        message(1, "Fine-tuning job started"),
                        metrics(2, 40, valid_loss=0.3, tokens_per_second=1234.5),
                    ],
                ),
                ("succeeded", []),
            ]
        )
        follow(script, "ftjob-1", view, poll_seconds=0.0)
        task = progress.tasks[0]

    assert (task.completed, task.total) == (40, 100)
    assert task.fields["facts"] == "loss 0.025  valid 0.300  1,234 tokens/s"
    assert "Fine-tuning job started" in screen.file.getvalue()


def test_the_time_left_comes_from_the_pace_seen_here():
    training = Training()
    training.read(metrics(1, 2))
    assert training.seconds_left(None) is None

    training.read(metrics(2, 20))

    assert training.seconds_left(None) == pytest.approx(40.0)


def test_a_waiting_job_shows_its_place():
    job = {"status": "queued", "sintonia": {"waiting_behind": 2}}

    assert status_line(job) == "queued, 2 jobs before it"
    assert status_line({"status": "validating_files"}) == "validating files"
