"""Drives a server through the ``openai`` command of 2.34.0, the last version that has one."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from commands import CommandFailed, is_absent, openai_command
from rows import chat_rows
from scenarios import TERMINAL, Run, Skip, main, scenario


def begin(run: Run) -> None:
    """Write the file that the commands upload."""
    run.base_url += "/"  # this command joins URL and path as they are
    run["folder"] = Path(tempfile.mkdtemp())
    (run["folder"] / "train.jsonl").write_bytes(chat_rows())


@scenario
def files_create(run: Run) -> None:
    path = str(run["folder"] / "train.jsonl")
    file = json.loads(openai_command(run, "files.create", "-f", path, "-p", "fine-tune"))
    assert file["status"] == "processed", file
    run["file"] = file["id"]


@scenario
def files_list(run: Run) -> None:
    assert run["file"] in openai_command(run, "files.list")


@scenario
def jobs_create(run: Run) -> None:
    hyperparameters = '{"n_epochs": 2, "batch_size": 4}'
    options = ("-m", run.model, "-F", run["file"], "-s", "cli", "-H", hyperparameters)
    job = json.loads(openai_command(run, "fine_tuning.jobs.create", *options))
    assert job["status"] == "validating_files", job
    run["job"] = job["id"]


@scenario
def jobs_retrieve(run: Run) -> None:
    deadline = time.monotonic() + run.job_seconds
    job = retrieved(run)
    while job["status"] not in TERMINAL:
        assert time.monotonic() < deadline, job
        time.sleep(0.5)
        job = retrieved(run)
    assert job["status"] == "succeeded", job
    run["tuned"] = job["fine_tuned_model"]


def retrieved(run: Run) -> dict:
    """Return the job as the command shows it."""
    return json.loads(openai_command(run, "fine_tuning.jobs.retrieve", "-i", run["job"]))


@scenario
def jobs_list(run: Run) -> None:
    page = json.loads(openai_command(run, "fine_tuning.jobs.list", "-l", "1"))
    assert len(page["data"]) == 1
    assert page["has_more"] in (True, False)


@scenario
def jobs_list_events(run: Run) -> None:
    page = json.loads(
        openai_command(run, "fine_tuning.jobs.list_events", "-i", run["job"], "-l", "1")
    )
    assert page["data"][0]["message"] == "The job has successfully completed", page


@scenario
def jobs_cancel(run: Run) -> None:
    made = json.loads(
        openai_command(run, "fine_tuning.jobs.create", "-m", run.model, "-F", run["file"])
    )
    job = json.loads(openai_command(run, "fine_tuning.jobs.cancel", "-i", made["id"]))
    assert job["status"] == "cancelled"


@scenario
def chat_completions_create(run: Run) -> None:
    options = ("-m", run["tuned"], "-g", "user", "Say 3", "-M", "8")
    openai_command(run, "chat.completions.create", *options)


@scenario
def completions_create(run: Run) -> None:
    printed = openai_command(run, "completions.create", "-m", run["tuned"], "-p", "abc", "-M", "4")
    assert "abc" in printed, "the command asks for the echo of the prompt"


@scenario
def models(run: Run) -> None:
    assert run["tuned"] in openai_command(run, "models.list")
    shown = json.loads(openai_command(run, "models.retrieve", "-i", run["tuned"]))
    assert shown["id"] == run["tuned"]


@scenario
def files_retrieve_and_delete(run: Run) -> None:
    try:
        openai_command(run, "files.retrieve", "-i", run["file"])
        openai_command(run, "files.delete", "-i", run["file"])
    except CommandFailed as failed:
        if "Field required" in str(failed):
            raise Skip("this command cannot parse its own -i, with any server") from failed
        raise


@scenario
def models_delete(run: Run) -> None:
    assert json.loads(openai_command(run, "models.delete", "-i", run["tuned"]))["deleted"] is True


if __name__ == "__main__":
    main(is_absent, begin)
