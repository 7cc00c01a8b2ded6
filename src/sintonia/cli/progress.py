"""How a followed job looks: a bar on a terminal, plain lines elsewhere.

Both show the same facts: the job's messages, its place in the queue, step, loss, validation
loss, tokens per second and the time left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sintonia.cli.follow import Update, View
from sintonia.cli.output import clock

LINES_PER_RUN = 20
"""About how many steps of a run the plain view shows."""


@dataclass
class Training:
    """What the metrics events of a job have said so far."""

    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    valid_loss: float | None = None
    tokens_per_second: float | None = None
    began: tuple[int, int] | None = None
    """Time and step of the first metrics event: the pace is measured from there."""
    now: int = 0
    """Unix seconds of the last one."""

    def read(self, event: Mapping[str, Any]) -> None:
        """Take in a metrics event."""
        data = event.get("data") or {}
        self.now = event["created_at"]
        self.step = int(data.get("step") or self.step)
        self.total_steps = int(data.get("total_steps") or self.total_steps)
        self.loss = data.get("train_loss", self.loss)
        self.valid_loss = data.get("full_valid_loss", data.get("valid_loss", self.valid_loss))
        self.tokens_per_second = data.get("tokens_per_second", self.tokens_per_second)
        if self.began is None:
            self.began = (self.now, self.step)

    def seconds_left(self, estimated_finish: int | None) -> float | None:
        """Return the server's estimate, else one from the pace seen here."""
        if estimated_finish:
            return max(0.0, estimated_finish - time.time())
        if self.began is None or self.step <= self.began[1]:
            return None
        pace = (self.now - self.began[0]) / (self.step - self.began[1])
        return pace * (self.total_steps - self.step)

    def describe(self, estimated_finish: int | None = None) -> str:
        """Return loss, validation loss, pace and time left, as far as they are known."""
        left = self.seconds_left(estimated_finish)
        parts = (
            None if self.loss is None else f"loss {self.loss:.3f}",
            None if self.valid_loss is None else f"valid {self.valid_loss:.3f}",
            None if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f} tokens/s",
            None if left is None or self.step >= self.total_steps else f"{clock(left)} left",
        )
        return "  ".join(part for part in parts if part)


def status_line(job: Mapping[str, Any]) -> str:
    """Return where a job stands, in words."""
    behind = (job.get("sintonia") or {}).get("waiting_behind") or 0
    if job["status"] == "queued" and behind:
        return f"queued, {behind} job{'s' if behind > 1 else ''} before it"
    return str(job["status"]).replace("_", " ")


class BarView:
    """A progress bar with the job's messages scrolling above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, steps="", facts="")
        self._training = Training()

    def show(self, update: Update) -> None:
        """Print new messages and move the bar."""
        for event in update.events:
            if event.get("type") == "metrics":
                self._training.read(event)
            else:
                self._say(event)
        training = self._training
        self._progress.update(
            self._task,
            description=status_line(update.job),
            completed=training.step,
            total=training.total_steps or None,
            steps=f"{training.step}/{training.total_steps}" if training.total_steps else "",
            facts=training.describe(update.job.get("estimated_finish")),
        )

    def _say(self, event: Mapping[str, Any]) -> None:
        text = f"  {event['message']}"
        self._progress.console.print(text, style=_style(event), soft_wrap=True)

    def trouble(self, message: str) -> None:
        """Say in the bar that the server is away."""
        self._progress.update(self._task, description="waiting for the server", facts=message)


class LineView:
    """Plain lines for logs and pipes: every message, and some of the steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._training = Training()
        self._last = ""
        self._next_step = 1

    def show(self, update: Update) -> None:
        """Print what is new."""
        for event in update.events:
            if event.get("type") == "metrics":
                self._show_step(event, update.job)
            else:
                self._console.print(event["message"], style=_style(event), soft_wrap=True)
        line = status_line(update.job)
        if line != self._last and not update.is_last:
            self._console.print(f"[{line}]", style="dim")
            self._last = line

    def trouble(self, message: str) -> None:
        """Say once that the server is away."""
        if self._last != message:
            self._console.print(message, style="yellow", soft_wrap=True)
            self._last = message

    def _show_step(self, event: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        data = event.get("data") or {}
        training = self._training
        training.read(event)
        if training.step < self._next_step and "full_valid_loss" not in data:
            return
        self._next_step = training.step + max(1, training.total_steps // LINES_PER_RUN)
        self._console.print(
            f"step {training.step}/{training.total_steps}  "
            f"{training.describe(job.get('estimated_finish'))}",
            soft_wrap=True,
        )


@contextmanager
def job_view(console: Console) -> Iterator[View]:
    """Give the view that fits the console."""
    if not console.is_terminal:
        yield LineView(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[steps]}", markup=False),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield BarView(progress)


def _style(event: Mapping[str, Any]) -> str:
    return {"error": "red", "warn": "yellow"}.get(event.get("level", "info"), "")
