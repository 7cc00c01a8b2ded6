"""A trainer that meets a full disk says so, wherever that happens, and loses no step."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from sintonia import failpoints, workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import (
    ExitRecord,
    ExitStatus,
    RecordKind,
    Tail,
    read_exit,
    reserve_exit,
    write_exit,
)
from sintonia.runs.spec import TrainSpec
from sintonia.training.reporter import Reporter, RowProgress
from sintonia.training.run import main

POINTS = [
    "record.write@4",
    "checkpoint.open@2",
    "checkpoint.write@2",
    "checkpoint.fsync@2",
    "checkpoint.rename@2",
    "checkpoint.dirsync@2",
]
"""After the first encoding, in the second snapshot."""


def row(number: int) -> str:
    messages = [
        {"role": "user", "content": f"Say {number}"},
        {"role": "assistant", "content": f"{number * 7 % 10}!"},
    ]
    return json.dumps({"messages": messages})


@pytest.fixture(scope="module")
def spec(tiny_home, tmp_path_factory) -> TrainSpec:
    """A plan of 3 steps, with a snapshot after each and its cache inside the run."""
    train = tmp_path_factory.mktemp("files") / "train.jsonl"
    train.write_text("\n".join(row(n) for n in range(12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        report = workflow.validate(train, base="tiny")
        chosen = Hyperparameters(n_epochs=1, batch_size=4)
        plan = workflow.plan(report, base="tiny", hyperparameters=chosen)
    return dataclasses.replace(plan, snapshot_seconds=0.0, threads=1, cache_folder="")


@pytest.fixture
def run(spec, tmp_path) -> RunFolder:
    (tmp_path / "run").mkdir()
    spec.write(tmp_path / "run" / "spec.json")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def train(run, monkeypatch):
    """The trainer's command within this process, which is then as it was before."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()

    def command(*words: str, **environment: str) -> int:
        with monkeypatch.context() as patch:
            for name, value in {"SINTONIA_HOME": str(run.path / "home"), **environment}.items():
                patch.setenv(name, value)
            return main([str(run.path), *words])

    yield command
    failpoints.arm("")
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def steps_of(run: RunFolder) -> list[int]:
    found = set()
    for attempt in run.path.glob("attempt-*"):
        records, _ = Tail(attempt / "records.jsonl").read()
        found |= {r.data["step"] for r in records if r.kind is RecordKind.STEP}
    return sorted(found)


def assert_met_a_full_disk(record: ExitRecord | None) -> None:
    assert record is not None
    assert record.status is ExitStatus.FAILED
    assert record.code == "insufficient_storage"
    assert record.is_retryable
    assert "Free space" in record.message


@pytest.mark.parametrize("point", POINTS)
def test_a_disk_that_gets_full_ends_the_attempt_in_words_and_the_next_goes_on(point, run, train):
    assert train(SINTONIA_FAILPOINT=f"{point}/FULL:{run.path / 'marker'}") == 1
    assert_met_a_full_disk(read_exit(run.attempt(1)))
    assert train() == 0
    assert read_exit(run.attempt(2)).status is ExitStatus.SUCCEEDED
    assert steps_of(run) == [1, 2, 3]
    assert not list(run.path.rglob("*.work"))


def test_a_disk_too_full_for_the_exit_record_is_told_all_the_same(run, train):
    trained = train(SINTONIA_FAILPOINT=f"exit.write@1/FULL:{run.path / 'marker'}")
    assert trained == 0, "it had succeeded"
    assert not run.attempt(1).exit.exists()
    assert_met_a_full_disk(read_exit(run.attempt(1)))
    assert train() == 0
    assert read_exit(run.attempt(2)).status is ExitStatus.SUCCEEDED


def test_an_exit_record_fits_into_its_reserved_room(tmp_path):
    attempt = RunFolder(tmp_path).attempt(1)
    attempt.path.mkdir()
    reserve_exit(attempt)
    (reserved,) = attempt.path.iterdir()
    inode = reserved.stat().st_ino
    record = ExitRecord(ExitStatus.FAILED, "server_error", "because", step=3)
    write_exit(attempt, record)
    assert read_exit(attempt) == record
    assert attempt.exit.stat().st_ino == inode, "no new file was needed"
    assert [path.name for path in attempt.path.iterdir()] == ["exit.json"]


def test_what_the_operator_keeps_free_is_left_alone(run, train):
    free_bytes = shutil.disk_usage(run.path).free
    assert train(SINTONIA_MIN_FREE_BYTES=str(free_bytes * 2)) == 1
    record = read_exit(run.attempt(1))
    assert_met_a_full_disk(record)
    assert "min_free_bytes" in record.message
    assert not run.checkpoints.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_a_disk_that_is_really_full_lets_the_job_wait(run):
    """On a small disk of its own, in a namespace that ends with the command."""
    disk = run.path.parent / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=300k tmpfs "$1" || exit 99; cp "$2"/spec.json "$1"/; '
        '"$3" -m sintonia.training.run "$1"; code=$?; '
        'cp -r "$1"/attempt-1 "$2"/; exit $code'
    )
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), str(run.path), sys.executable]
    home = str(run.path / "home")
    environment = {**os.environ, "SINTONIA_HOME": home, "SINTONIA_MIN_FREE_BYTES": "0"}
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    if not (run.path / "attempt-1").exists():
        pytest.skip("no small disk can be mounted here")
    assert ended.returncode == 1
    assert_met_a_full_disk(read_exit(run.attempt(1)))


def test_encoding_shows_that_it_lives_and_how_far_it_is(tmp_path):
    attempt = RunFolder(tmp_path).attempt(1)
    attempt.path.mkdir()
    reporter = Reporter(attempt)
    os.utime(attempt.heartbeat, (1, 1))
    progress = RowProgress(reporter, "Encoding training rows", 50_000, every_seconds=0.0)
    progress(0)
    assert attempt.heartbeat.stat().st_mtime > 1, "waiting for another's encoding beats too"
    progress(12_000)
    calm = RowProgress(reporter, "Encoding validation rows", 50, every_seconds=3600.0)
    calm(50)
    reporter.close()
    records, _ = Tail(attempt.records).read()
    assert [record.data["message"] for record in records] == [
        "Encoding training rows: 12,000 of 50,000"
    ]


def test_a_start_without_a_number_takes_the_next_and_a_used_number_is_refused(run, train, capsys):
    assert train() == 0
    before = run.attempt(1).records.read_bytes()
    assert train() == 0
    assert read_exit(run.attempt(2)).status is ExitStatus.SUCCEEDED
    assert train("--attempt", "1") == 1
    assert "Attempt 1 of run: it was made before." in capsys.readouterr().err
    assert run.attempt(1).records.read_bytes() == before
    assert read_exit(run.attempt(1)).status is ExitStatus.SUCCEEDED


def test_a_folder_without_a_run_is_refused_in_words(run, train, capsys):
    run.spec.unlink()
    assert train() == 1
    assert "holds no run" in capsys.readouterr().err
    assert not list(run.path.glob("attempt-*"))
