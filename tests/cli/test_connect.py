"""Finding, starting and leaving a real server (the API, the worker and the echo engine)."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stand_ins import is_alive, wait_for

from sintonia import cli
from sintonia import settings as settings_module
from sintonia.cli.background import connect, start_in_background, stop_server
from sintonia.cli.homes import ServerFolder
from sintonia.errors import AlreadyRunning, ServerUnreachable
from sintonia.settings import Settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A home whose server answers with the echo engine; whatever runs there is ended."""
    # A socket's path must be short, pytest's folders are not.
    home = Path(tempfile.mkdtemp(prefix="sin"))
    monkeypatch.setenv("SINTONIA_HOME", str(home))
    monkeypatch.setenv("SINTONIA_ENGINE", "echo")
    yield settings_module.load()
    folder = ServerFolder(home)
    pid = folder.pid()
    if pid is not None:
        stop_server(folder, pid)
    shutil.rmtree(home)


def test_a_server_started_for_commands_ends_with_the_last_of_them(settings, good_file):
    folder = ServerFolder(settings.home)
    with connect(settings) as first:
        with connect(settings) as second:
            assert second.url == first.url
            stored = second.upload(good_file)
        assert folder.read() is not None, "the first command still uses it"
        assert first.file(stored["id"])["filename"] == "good.jsonl"
        server = folder.pid()

    assert not folder.is_locked()
    assert not folder.record.exists()
    wait_for(lambda: not is_alive(server))


def test_a_server_outlives_its_command_while_a_job_is_left(settings, good_file, capfd):
    with fetch_that_never_ends(settings.home):
        with connect(settings) as client:
            training_file = client.upload(good_file)["id"]
            job = client.create_job({"model": "gpt-4o-mini", "training_file": training_file})

        assert f"goes on in the background for {job['id']}" in capfd.readouterr().err
        folder = ServerFolder(settings.home)
        assert folder.read() is not None

        with connect(settings) as client:
            client.cancel_job(job["id"])
        assert not folder.is_locked(), "the last command to leave ends a server without a job"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"url": 5}'])
def test_a_damaged_record_of_a_live_server_is_told_at_once(settings, content):
    folder = ServerFolder(settings.home)
    folder.make()
    with folder.hold():
        folder.record.write_text(content)
        began = time.monotonic()
        with (
            pytest.raises(ServerUnreachable, match=r"server\.json is damaged.*`sintonia stop`"),
            connect(settings),
        ):
            pass
        with pytest.raises(AlreadyRunning, match=r"server\.json is damaged"):
            folder.refuse_second()
        assert time.monotonic() - began < 5


@contextmanager
def fetch_that_never_ends(home: Path) -> Iterator[None]:
    """Be the process that fetches the embedded model: a job waits for it."""
    (home / "downloads").mkdir()
    with (home / "downloads" / "smollm2-135m-instruct.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_server_of_serve_is_found_left_running_and_replaced_when_it_is_killed(settings):
    folder = ServerFolder(settings.home)
    record = start_in_background(settings, on_demand=False, port=0)

    with connect(settings) as client:
        assert client.url == record.url
    assert folder.read() == record

    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: not folder.is_locked())
    with connect(settings) as client:
        assert client.models()
        assert folder.pid() != record.pid


def test_a_second_server_in_the_background_is_refused_and_the_log_of_the_first_kept(settings):
    folder = ServerFolder(settings.home)
    record = start_in_background(settings, on_demand=False, port=0)
    log = folder.logs / "server.log"
    wait_for(lambda: record.url in log.read_text())

    with pytest.raises(AlreadyRunning, match=str(record.pid)):
        start_in_background(settings, on_demand=False, port=0)

    assert record.url in log.read_text()
    assert folder.read() == record


def hear_ctrl_c() -> None:
    """Undo what a shell does to what it starts in the background: such programs hear no Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_a_server_starts_ends_that_server(settings):
    folder = ServerFolder(settings.home)
    command = [sys.executable, "-m", "sintonia.cli", "files", "list"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509
    ) as typed:
        server = wait_for(folder.pid)
        typed.send_signal(signal.SIGINT)
        assert typed.wait(30) != 0

    assert not folder.is_locked()
    wait_for(lambda: not is_alive(server))


def test_an_upload_that_cannot_be_used_fails_and_says_why(settings, tmp_path, capfd):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{broken\n")

    assert cli.main(["files", "upload", str(broken)]) == 1

    captured = capfd.readouterr()
    assert captured.out.startswith("file-")
    assert "File broken.jsonl cannot be used: " in captured.err
    assert "ine 1" in captured.err


def test_a_server_that_cannot_start_says_why(settings, monkeypatch):
    monkeypatch.setenv("SINTONIA_DATABASE_URL", "nosuchdatabase://")

    with pytest.raises(ServerUnreachable, match="did not start"), connect(settings):
        pass
