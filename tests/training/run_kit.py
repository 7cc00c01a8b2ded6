"""Trainers as processes on tiny runs, and what their directories say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sintonia.runs.layout import RunFolder
from sintonia.runs.records import ExitRecord, RecordKind, Tail
from sintonia.runs.spec import TrainSpec
from sintonia.training.run import StopRequest, run_attempt


def row(number: int) -> str:
    messages = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": f"Say {'very ' * (number % 5)}{number}"},
        {"role": "assistant", "content": f"{number * 7 % 10}!" * (1 + number % 3)},
    ]
    return json.dumps({"messages": messages})


def pair(number: int) -> str:
    row = {
        "input": {
            "messages": [{"role": "user", "content": f"Say {'very ' * (number % 5)}{number}"}]
        },
        "preferred_output": [{"role": "assistant", "content": f"{number}!" * (1 + number % 3)}],
        "non_preferred_output": [{"role": "assistant", "content": "No. " * (1 + number % 4)}],
    }
    return json.dumps(row)


def start(run: RunFolder, attempt: int, failpoint: str = "") -> subprocess.Popen[bytes]:
    run.attempt(attempt).path.mkdir(parents=True, exist_ok=True)
    with run.attempt(attempt).output.open("wb") as output:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "sintonia.training.run",
                str(run.path),
                "--attempt",
                str(attempt),
            ],
            env={**os.environ, "SINTONIA_FAILPOINT": failpoint},
            stdout=output,
            stderr=output,
        )


def prepare(spec: TrainSpec, folder: Path) -> RunFolder:
    folder.mkdir()
    spec.write(folder / "spec.json")
    return RunFolder(folder)


class StopAfter(StopRequest):
    """Asks for an end after so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


def attempt_in_process(
    spec: TrainSpec, folder: Path, stop: StopRequest | None = None
) -> ExitRecord:
    """Make the next attempt of the run in ``folder``, which is made if need be."""
    run = RunFolder(folder)
    folder.mkdir(exist_ok=True)
    spec.write(run.spec)
    return run_attempt(run, run.next_attempt(), stop or StopRequest(), min_free_bytes=1)


def steps_of(run: RunFolder) -> dict[int, dict]:
    """What was measured at each step, times left out; later attempts replace earlier ones."""
    steps = {}
    for attempt in sorted(run.path.glob("attempt-*")):
        records, _ = Tail(attempt / "records.jsonl").read()
        for record in records:
            if record.kind is RecordKind.STEP:
                data = {k: v for k, v in record.data.items() if k != "tokens_per_second"}
                steps[data["step"]] = data
    return steps


def finish(run: RunFolder, first_attempt: int) -> int:
    """Start attempts until one ends by itself; return its number."""
    for attempt in range(first_attempt, first_attempt + 4):
        process = start(run, attempt)
        if process.wait(timeout=120) == 0:
            return attempt
    raise AssertionError(run.attempt(attempt).output.read_text())


def events_of(run: RunFolder, attempt: int) -> list[str]:
    """What an attempt said in words."""
    records, _ = Tail(run.attempt(attempt).records).read()
    return [record.data["message"] for record in records if record.kind is RecordKind.EVENT]
