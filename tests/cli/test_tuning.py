"""From a file to a tuned model through the commands: real API, worker and trainer, tiny model."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sintonia import cli
from sintonia import settings as settings_module
from sintonia.cli.background import start_in_background, stop_server
from sintonia.cli.client import Client
from sintonia.cli.demo import Plan, Stopwatch
from sintonia.cli.demo import run as run_demo
from sintonia.cli.finetune import Order, create_job
from sintonia.cli.homes import ServerFolder


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[str]:
    """The URL of a server whose home has a tiny model and whose engine is the echo."""
    # A socket's path must be short, pytest's folders are not.
    home = Path(tempfile.mkdtemp(prefix="sin"))
    shutil.copytree(tiny_home, home, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(home))
        patch.setenv("SINTONIA_ENGINE", "echo")
        patch.setenv("SINTONIA_THREADS", "1")
        patch.setenv("COLUMNS", "200")
        record = start_in_background(settings_module.load(), on_demand=False, port=0)
        yield record.url
        stop_server(ServerFolder(home), record.pid)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the demo's, with twelve short rows in each file."""
    folder = tmp_path_factory.mktemp("tickets")
    rows = []
    for number in range(12):
        ticket = json.dumps({"intent": f"i{number % 3}", "product": "phone"})
        messages = [
            {"role": "user", "content": f"hi {number}"},
            {"role": "assistant", "content": ticket},
        ]
        rows.append(json.dumps({"messages": messages}) + "\n")
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl"):
        (folder / name).write_text("".join(rows), encoding="utf-8")
    return folder


def test_finetune_follows_a_job_and_names_the_model(server, tickets, capfd):
    file = str(tickets / "train.jsonl")
    options = ("--model", "tiny", "--epochs", "1", "--suffix", "mine")

    assert cli.main(["finetune", file, "--valid", file, *options]) == 0

    out = capfd.readouterr().out
    with Client(server) as client:
        job = next(client.jobs())
        assert client.job(job["id"])["status"] == "succeeded"
    name = job["fine_tuned_model"]
    assert name.startswith("ft:tiny:personal:mine:")
    assert f"sintonia chat {name}" in out
    assert "validation loss" in out
    assert server in out

    assert cli.main(["jobs", "logs", job["id"]]) == 0
    logs = capfd.readouterr().out
    assert f"New fine-tuned model created: {name}" in logs
    assert "The last lines of attempt 1" in logs
    assert cli.main(["jobs", "show", job["id"]]) == 0
    assert "1 (given)" in capfd.readouterr().out
    assert cli.main(["chat", name, "hello", "--max-tokens", "4"]) == 0
    assert cli.main(["models", "delete", name]) == 0
    assert cli.main(["chat", name, "hello"]) == 1
    assert "does not exist" in capfd.readouterr().err


def test_a_failed_job_says_why_and_where_to_look(server, tmp_path, capfd):
    rows = [{"prompt": "p" * 5000, "completion": f" {number}"} for number in range(12)]
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    assert cli.main(["finetune", str(file), "--model", "tiny"]) == 1

    err = capfd.readouterr().err
    assert "failed (invalid_training_file)" in err
    assert "sintonia jobs logs ftjob-" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "nobody"), "Model nobody is not available"),
        (("--model", "tiny", "--epochs", "99"), "n_epochs"),
    ],
)
def test_files_of_a_refused_job_are_deleted_again(server, tickets, capfd, options, words):
    with Client(server) as client:
        before = [file["id"] for file in client.files()]

        assert cli.main(["finetune", str(tickets / "train.jsonl"), *options]) == 1

        assert words in capfd.readouterr().err
        assert [file["id"] for file in client.files()] == before


def test_a_file_is_deleted_again_when_the_next_cannot_be_read(server, tickets, tmp_path):
    order = Order(tickets / "train.jsonl", tmp_path / "gone.jsonl", "tiny", None, None, {})
    with Client(server) as client:
        before = [file["id"] for file in client.files()]

        with pytest.raises(FileNotFoundError):
            create_job(client, order)

        assert [file["id"] for file in client.files()] == before


def test_stored_answers_are_distilled_into_a_file_and_a_model(server, capfd):
    with Client(server) as client:
        for number in range(24):
            message = {"role": "user", "content": f"hi {number}"}
            body = {"model": "tiny", "messages": [message], "store": True}
            "".join(client.chat({**body, "metadata": {"day": str(number % 2)}}))

        options = ("--model", "tiny", "--metadata", "day=1", "--out-name", "odd.jsonl")
        assert cli.main(["distill", *options]) == 0

        out = capfd.readouterr().out
        file = next(client.files())
        assert file["filename"] == "odd.jsonl"
        assert file["id"] in out
        rows = b"".join(client.download(file["id"])).decode().splitlines()
        first = json.loads(rows[0])["messages"]
        assert len(rows) == 12
        assert [message["content"] for message in first] == ["hi 1", "user\nhi 1"]

        training = ("--train", "tiny", "--epochs", "1", "--suffix", "small", "--set", "lora.rank=2")
        assert cli.main(["distill", "--limit", "20", "--validation", "0.2", *training]) == 0

        out = capfd.readouterr().out
        job = next(client.jobs())
        assert client.file(job["validation_file"])["filename"] == "validation-distilled.jsonl"
        assert job["sintonia"]["settings"]["lora"]["rank"] == 2
        assert f"sintonia chat {job['fine_tuned_model']}" in out
        assert ":small:" in job["fine_tuned_model"]

        assert cli.main(["distill", "--model", "nobody"]) == 1
        assert "Stored here are: 24 of tiny" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metadata", "day"), "--metadata day: give KEY=VALUE"),
        (("--metadata", "a=1", "--metadata", "a=2"), "each key once"),
        (("--validation", "nan"), "--validation nan: must be a finite number"),
        (("--validation", "1.5"), "must be a finite number above 0 and below 1"),
        (("--epochs", "2"), "Name its base with --train"),
    ],
)
def test_a_mistaken_distillation_is_told_before_a_server_is_needed(options, words, capfd):
    assert cli.main(["distill", *options]) == 1
    assert words in capfd.readouterr().err


def test_the_demo_tunes_asks_and_compares_through_the_sdk(server, tickets):
    screen = Console(file=io.StringIO(), width=200, markup=False)
    watch = Stopwatch()

    _, result = run_demo(Plan(tickets, epochs=1, model="tiny"), server, screen, watch)

    text = screen.file.getvalue()
    assert result.model.startswith("ft:tiny:personal:tickets:")
    assert len(result.answers) == 12
    assert (result.score.tickets, result.score.fields) == (12, 24)
    assert "The same held-out questions" in text
    assert "i0 · phone" in text
    assert "0% (0% to 24%), 0 of 12" in text
    assert [name for name, _ in watch.stages] == ["tuning", "asking tiny", f"asking {result.model}"]
    assert os.environ["SINTONIA_HOME"] not in text
