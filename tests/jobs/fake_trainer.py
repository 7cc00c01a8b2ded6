"""A trainer that learns nothing: a real process that keeps the run directory's contract.

``behaviour.json`` in the home, three folders up from an attempt, says what each attempt does::

    {"steps": 6, "step_seconds": 0.01, "attempts": {"1": {"crash_at": 3}, "*": {}}}

An attempt may ``crash_at`` a step, near the end of its memory if it is ``short_of_memory``,
``hang_at`` one, ``wait_at`` one for the file ``go`` or for SIGTERM, ``fail`` with an exit record,
``damage`` its last checkpoint, or be ``deaf`` to SIGTERM; told to stop it may go on for
``beats_after_stop`` tenths of a second, or hang (``hangs_after_stop``). Losses depend on the step
alone, as those of a trainer that resumes bit by bit do. Every second step is an epoch's end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from sintonia.runs.layout import RunFolder, step_folder_name, step_of
from sintonia.runs.records import ExitRecord, ExitStatus, RecordKind, RecordWriter, write_exit
from sintonia.sealed import MANIFEST, seal, write_json

KEPT = 3


def main() -> None:
    run = RunFolder(Path(sys.argv[1]))
    number = sys.argv[3]
    behaviour = json.loads((run.path.parent.parent / "behaviour.json").read_text())
    attempts = behaviour.get("attempts", {})
    how = attempts.get(number, attempts.get("*", {}))
    stopped = []
    if not how.get("deaf"):
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    attempt = run.attempt(int(number))
    attempt.heartbeat.touch()
    writer = RecordWriter(attempt)
    writer.write(RecordKind.EVENT, time.time(), {"level": "info", "message": "Data is ready"})
    say(f"attempt {number} begins")
    note_memory(how, attempt)
    if "fail" in how:
        write_exit(attempt, ExitRecord(ExitStatus.FAILED, **how["fail"]))
        sys.exit(1)
    steps = behaviour["steps"]
    done = max([step_of(folder) for folder in run.resume_points()], default=0)
    for step in range(done + 1, steps + 1):
        time.sleep(behaviour.get("step_seconds", 0.01))
        attempt.heartbeat.touch()
        if step == how.get("crash_at"):
            say("Segmentation fault (not really)")
            os._exit(9)
        while step == how.get("hang_at"):
            time.sleep(1)
        go = run.path.parent.parent / "go"
        while step == how.get("wait_at") and not (stopped or go.exists()):
            time.sleep(0.02)
            attempt.heartbeat.touch()
        if stopped:
            end_slowly(how, attempt)
            write_exit(attempt, ExitRecord(ExitStatus.STOPPED, step=step - 1))
            return
        writer.write(RecordKind.STEP, time.time(), metrics(step, steps))
        if step % 2 == 0 or step == steps:
            folder = save(run, step)
            data = {"step": step, "folder": f"checkpoints/{folder.name}", "metrics": {"step": step}}
            writer.write(RecordKind.CHECKPOINT, time.time(), data)
    writer.close()
    final = f"checkpoints/{step_folder_name(steps)}"
    if how.get("damage"):
        (run.path / final / "adapter_model.safetensors").write_bytes(b"flipped")
    record = ExitRecord(
        ExitStatus.SUCCEEDED, step=steps, trained_tokens=100 * steps, model_folder=final
    )
    write_exit(attempt, record)


def note_memory(how, attempt) -> None:
    if how.get("short_of_memory"):
        told = {"num_kills": None, "peak_bytes": 99, "limit_bytes": 100}
        write_json(attempt.path / "memory.json", told)


def end_slowly(how, attempt) -> None:
    for _ in range(how.get("beats_after_stop", 0)):  # a step that takes long
        time.sleep(0.1)
        attempt.heartbeat.touch()
    while how.get("hangs_after_stop"):
        time.sleep(1)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def metrics(step: int, steps: int) -> dict[str, float]:
    data = {"step": step, "total_steps": steps, "train_loss": 1 / step}
    data["train_mean_token_accuracy"] = 0.5
    if step % 2 == 0:
        data |= {"valid_loss": 2 / step, "valid_mean_token_accuracy": 1 / 3}
    return data


def save(run: RunFolder, step: int) -> Path:
    run.checkpoints.mkdir(exist_ok=True)
    work = run.checkpoints / f".{step}.work"
    work.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "state.safetensors"):
        (work / name).write_text(f"{name} of step {step}")
    final = run.checkpoints / step_folder_name(step)
    seal(work, final)
    folders = sorted(run.checkpoints.glob("step-*"), key=step_of, reverse=True)
    for old in folders[KEPT:]:
        for path in sorted(old.iterdir(), key=lambda path: path.name != MANIFEST):
            path.unlink()
        old.rmdir()
    return final


main()
