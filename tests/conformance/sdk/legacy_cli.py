"""Drives a server through the ``openai`` command of 0.28.1."""

from __future__ import annotations

import json
import re
import tempfile
import time
from pathlib import Path

from commands import is_absent, openai_command
from rows import chat_rows, pair_rows
from scenarios import TERMINAL, Run, main, scenario


def begin(run: Run) -> None:
    """Write the file that the commands upload."""
    run["folder"] = Path(tempfile.mkdtemp())
    (run["folder"] / "train.jsonl").write_bytes(chat_rows())
    (run["folder"] / "pairs.jsonl").write_bytes(pair_rows())


def object_in(printed: str) -> dict:
    """Return the object that a command printed, after whatever it said before."""
    return json.loads(printed[printed.index("{") :])


@scenario
def files_create(run: Run) -> None:
    path = str(run["folder"] / "train.jsonl")
    file = object_in(openai_command(run, "files.create", "-f", path, "-p", "fine-tune"))
    assert file["status"] == "processed", file
    run["file"] = file["id"]


@scenario
def files_get_and_list(run: Run) -> None:
    assert object_in(openai_command(run, "files.get", "-i", run["file"]))["id"] == run["file"]
    assert run["file"] in openai_command(run, "files.list")


@scenario
def job_create_from_a_path(run: Run) -> None:
    path = str(run["folder"] / "train.jsonl")
    options = ("-t", path, "-m", run.model, "--no_check_if_files_exist", "--n_epochs", "2")
    printed = openai_command(run, "fine_tuning.job.create", *options)
    assert re.search(r"Uploaded file from .*: file-", printed), printed
    run["job"] = object_in(printed)["id"]


@scenario
def job_get(run: Run) -> None:
    deadline = time.monotonic() + run.job_seconds
    job = got(run)
    while job["status"] not in TERMINAL:
        assert time.monotonic() < deadline, job
        time.sleep(0.5)
        job = got(run)
    assert job["status"] == "succeeded", job
    run["tuned"] = job["fine_tuned_model"]


def got(run: Run) -> dict:
    """Return the job as the command shows it."""
    return object_in(openai_command(run, "fine_tuning.job.get", "-i", run["job"]))


@scenario
def job_list(run: Run) -> None:
    assert run["job"] in openai_command(run, "fine_tuning.job.list")


@scenario
def job_events(run: Run) -> None:
    printed = openai_command(run, "fine_tuning.job.events", "-i", run["job"])
    assert "The job has successfully completed" in printed


@scenario
def job_results(run: Run) -> None:
    assert "step,train_loss" in openai_command(run, "fine_tuning.job.results", "-i", run["job"])


@scenario
def job_cancel(run: Run) -> None:
    options = ("-t", run["file"], "-m", run.model, "--n_epochs", "50")
    made = object_in(openai_command(run, "fine_tuning.job.create", *options))
    cancelled = object_in(openai_command(run, "fine_tuning.job.cancel", "-i", made["id"]))
    assert cancelled["status"] == "cancelled"


@scenario
def completions_create(run: Run) -> None:
    printed = openai_command(run, "completions.create", "-m", run["tuned"], "-p", "abc", "-M", "4")
    assert "abc" in printed, "the command asks for the echo of the prompt"


@scenario
def chat_completions_create(run: Run) -> None:
    options = ("-m", run["tuned"], "-g", "user", "Say 3", "-M", "8")
    openai_command(run, "chat_completions.create", *options)


@scenario
def models(run: Run) -> None:
    assert object_in(openai_command(run, "models.get", "-i", run["tuned"]))["id"] == run["tuned"]
    assert run["tuned"] in openai_command(run, "models.list")


@scenario
def fine_tunes_create_and_follow(run: Run) -> None:
    path = str(run["folder"] / "pairs.jsonl")
    options = ("-t", path, "-m", run.model, "--no_check_if_files_exist", "--n_epochs", "2")
    printed = openai_command(run, "fine_tunes.create", *options)
    assert "Job complete! Status: succeeded" in printed, printed
    run["fine_tune"] = re.search(r"Created fine-tune: (ft-\w+)", printed)[1]


@scenario
def fine_tunes_get_list_and_events(run: Run) -> None:
    shown = object_in(openai_command(run, "fine_tunes.get", "-i", run["fine_tune"]))
    assert shown["status"] == "succeeded", shown
    assert run["fine_tune"] in openai_command(run, "fine_tunes.list")
    printed = openai_command(run, "fine_tunes.events", "-i", run["fine_tune"])
    assert "The job has successfully completed" in printed


@scenario
def fine_tunes_results(run: Run) -> None:
    assert "step,train_loss" in openai_command(run, "fine_tunes.results", "-i", run["fine_tune"])


@scenario
def fine_tunes_cancel(run: Run) -> None:
    options = ("-t", run["file"], "-m", run.model, "--n_epochs", "50", "--no_follow")
    made = object_in(openai_command(run, "fine_tunes.create", *options))
    cancelled = object_in(openai_command(run, "fine_tunes.cancel", "-i", made["id"]))
    assert cancelled["status"] == "cancelled"


@scenario
def models_delete(run: Run) -> None:
    assert object_in(openai_command(run, "models.delete", "-i", run["tuned"]))["deleted"] is True


if __name__ == "__main__":
    main(is_absent, begin)
