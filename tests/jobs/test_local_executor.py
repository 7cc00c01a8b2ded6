"""Trainers as processes: launched, found again, stopped."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from worker_kit import wait_until

from sintonia.jobs.executors.local import LocalExecutor
from sintonia.jobs.processes import ProcessId, find_process, is_known_dead, worker_name
from sintonia.runs.layout import RunFolder

SLEEPER = (sys.executable, "-c", "import os, time; print(os.nice(0), flush=True); time.sleep(60)")


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "ftjob-x")
    folder.path.mkdir()
    return folder


def test_a_trainer_is_found_by_its_folder_and_stopped(run):
    executor = LocalExecutor(SLEEPER, niceness=5)
    assert executor.find(run, 1) is None
    handle = executor.launch(run, 1)
    wait_until(lambda: run.attempt(1).output.read_text() == f"{os.nice(0) + 5}\n")
    assert executor.is_alive(handle)
    stranger = LocalExecutor(SLEEPER)
    assert stranger.find(run, 1) == handle
    stranger.stop(handle, 5)
    assert not executor.is_alive(handle)
    assert not executor.is_alive(stranger.find(run, 1))


def test_a_number_that_another_process_got_is_not_taken_for_the_trainer(run):
    executor = LocalExecutor(SLEEPER)
    folder = run.attempt(1).path
    folder.mkdir()
    (folder / "pid").write_text(f"{os.getpid()}\n")
    assert not executor.is_alive(executor.find(run, 1))
    this = find_process(os.getpid())
    other = ProcessId(this.pid, f"{this.start}0")
    assert not executor.is_alive(str(other))
    executor.stop(str(other), 0)
    assert this.is_alive()


def test_a_trainer_sees_no_input_and_no_terminal(run):
    code = "import os, sys; print(sys.stdin.read() == '', os.getsid(0) == os.getpid(), flush=True)"
    executor = LocalExecutor((sys.executable, "-c", code))
    handle = executor.launch(run, 3)
    wait_until(lambda: not executor.is_alive(handle))
    assert run.attempt(3).output.read_text() == "True True\n"


def test_a_worker_is_known_dead_only_on_its_own_host():
    assert not is_known_dead(worker_name())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host = worker_name().split("|")[0]
    name = f"{host}|{find_process(child.pid)}|nonce/claim"
    assert not is_known_dead(name)
    child.kill()
    wait_until(lambda: is_known_dead(name))  # although nobody has waited for it yet
    child.wait()
    assert is_known_dead(name)
    assert not is_known_dead(name.replace(host, "elsewhere", 1))
    child.stdin.close()
