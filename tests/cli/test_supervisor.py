"""The supervisor on real, tiny child processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from stand_ins import STAND_IN_WORKER, python, wait_for

from sintonia.cli import supervisor as supervisor_module
from sintonia.cli.supervisor import Backoff, ChildSpec, Supervisor, rotate

QUICK = Backoff(first_seconds=0.05, longest_seconds=0.2)


def started(tmp_path: Path, *commands: tuple[str, ...], **options: object) -> Supervisor:
    specs = [
        ChildSpec(f"child{number}", command, tmp_path / f"child{number}.log")
        for number, command in enumerate(commands)
    ]
    supervisor = Supervisor(specs, os.environ, backoff=QUICK, **options)
    supervisor.start()
    return supervisor


def test_a_killed_child_is_started_again_and_the_others_are_left_alone(tmp_path):
    reports: list[str] = []
    worker = python(STAND_IN_WORKER)
    supervisor = started(tmp_path, worker, worker, report=reports.append)
    try:
        before = supervisor.process_ids()
        os.kill(before["child0"], signal.SIGKILL)

        def revived() -> bool:
            supervisor.revive()
            return supervisor.process_ids().get("child0", before["child0"]) != before["child0"]

        wait_for(revived)
        assert supervisor.process_ids()["child1"] == before["child1"]
        assert len(reports) == 1
        assert "child0 ended with code -9" in reports[0]
    finally:
        supervisor.stop()


def test_a_child_that_keeps_dying_is_counted(tmp_path):
    supervisor = started(tmp_path, python("raise SystemExit('no engine here')"))
    try:

        def died_thrice() -> bool:
            supervisor.revive()
            return supervisor.most_failed()[1] >= 3

        wait_for(died_thrice)
        assert "no engine here" in (tmp_path / "child0.log").read_text()
    finally:
        supervisor.stop()


def test_the_delay_doubles_up_to_the_longest():
    backoff = Backoff(first_seconds=0.5, longest_seconds=3.0)

    assert [backoff.delay_seconds(n) for n in (1, 2, 3, 4, 50)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_stop_ends_every_child_and_kills_the_stubborn(tmp_path):
    stubborn = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = started(tmp_path, python(STAND_IN_WORKER), python(stubborn))
    log = tmp_path / "child1.log"
    wait_for(lambda: log.exists() and "deaf" in log.read_text())
    children = supervisor.process_ids().values()

    supervisor.stop(grace_seconds=0.3)

    assert len(children) == 2
    assert supervisor.process_ids() == {}
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_long_log_is_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "MAX_LOG_BYTES", 10)
    log = tmp_path / "api.log"
    log.write_text("more than ten bytes")

    rotate(log)

    assert not log.exists()
    assert (tmp_path / "api.log.1").read_text() == "more than ten bytes"
