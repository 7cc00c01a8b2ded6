"""One server per home: its lock, its port, its record, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import stand_ins
from stand_ins import is_alive, python, wait_for

from sintonia.cli.homes import ServerFolder, ServerRecord, live_trainers
from sintonia.cli.serve import check_host, free_port, supervise
from sintonia.cli.supervisor import ChildSpec
from sintonia.errors import AlreadyRunning, InvalidValue, PortInUse, ServerUnreachable


@pytest.fixture
def server(tmp_path):
    """A server of stand-ins in a process of its own."""
    home, port = tmp_path / "home", free_port("127.0.0.1", 0)
    process = subprocess.Popen([sys.executable, stand_ins.__file__, str(home), str(port)])
    folder = ServerFolder(home)
    wait_for(folder.read)
    yield process, folder
    process.kill()
    process.wait()


def worker_pid(folder: ServerFolder) -> int:
    log = folder.logs / "worker.log"
    wait_for(lambda: log.exists() and log.read_text().strip())
    return int(log.read_text().split()[-1])


def test_a_ready_server_says_where_it_is_and_sigterm_ends_it_cleanly(server):
    process, folder = server
    worker = worker_pid(folder)
    assert folder.read().pid == process.pid
    assert folder.pid() == process.pid

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    assert not folder.record.exists()
    assert not folder.is_locked()
    wait_for(lambda: not is_alive(worker))


def test_children_end_when_their_server_is_killed(server):
    process, folder = server
    worker = worker_pid(folder)

    process.kill()

    wait_for(lambda: not is_alive(worker))
    process.wait()
    assert folder.record.exists()
    assert folder.read() is None, "the record of a killed server must not be believed"


def test_a_second_server_of_a_home_is_told_who_runs_and_where(server):
    process, folder = server

    with pytest.raises(AlreadyRunning) as problem, folder.hold():
        pass

    assert str(process.pid) in problem.value.message
    assert folder.read().url in problem.value.message
    assert folder.read() is not None


def test_the_next_server_knows_that_the_one_before_was_killed(tmp_path):
    folder = ServerFolder(tmp_path)
    with folder.hold() as was_killed:
        assert not was_killed
    folder.write(ServerRecord(1, "127.0.0.1", 1, "http://127.0.0.1:1", "0"))
    with folder.hold() as was_killed:
        assert was_killed
        assert not folder.record.exists()


def test_a_part_that_cannot_start_ends_the_server_with_its_last_words(tmp_path):
    folder = ServerFolder(tmp_path)
    folder.make()
    log = folder.logs / "engine.log"
    broken = ChildSpec("engine", python("raise SystemExit('no such engine')"), log)
    record = ServerRecord(os.getpid(), "127.0.0.1", 9, "http://127.0.0.1:9", "0")

    with pytest.raises(ServerUnreachable, match="no such engine"):
        supervise(folder, record, [broken], threading.Event())

    assert not folder.record.exists()


def test_a_port_in_use_is_refused_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(PortInUse, match=rf"Port {port} .*--port"):
            free_port("127.0.0.1", port)


def test_a_port_that_a_dying_server_leaves_is_waited_for():
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    threading.Timer(0.3, other.close).start()

    assert free_port("127.0.0.1", port, patience_seconds=10.0) == port


def test_port_zero_takes_a_free_one():
    assert free_port("127.0.0.1", 0) > 1023


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts_are_allowed(host):
    check_host(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org"])
def test_other_hosts_are_refused_until_keys_exist(host):
    with pytest.raises(InvalidValue, match="API keys"):
        check_host(host)


def test_a_home_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Exception, match="SINTONIA_HOME"):
        ServerFolder(tmp_path / "file" / "home").make()


def test_only_trainers_that_beat_and_have_not_ended_are_alive(tmp_path):
    now = time.time()
    for job_id, attempt, age, has_ended in [
        ("alive", 1, 500, False),
        ("alive", 2, 1, False),
        ("ended", 1, 1, True),
        ("dead", 10, 500, False),
    ]:
        folder = tmp_path / "runs" / job_id / f"attempt-{attempt}"
        folder.mkdir(parents=True)
        (folder / "heartbeat").touch()
        os.utime(folder / "heartbeat", (now - age, now - age))
        if has_ended:
            (folder / "exit.json").write_text("{}")

    assert live_trainers(tmp_path) == ["alive"]
