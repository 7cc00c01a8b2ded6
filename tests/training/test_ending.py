"""How a run ends: early at its best, out of memory, or overtaken by a later attempt."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal

import psutil
import pytest
from run_kit import events_of, finish, prepare, start, steps_of

from sintonia.runs.records import ExitStatus, read_exit
from sintonia.runs.spec import EarlyStopping
from sintonia.sealed import hash_file, read_json, verify, write_json
from tiny_models import wait_until


@pytest.fixture(scope="module")
def overfitting(planned):
    """A plan of 12 epochs that learns so fast that validation soon gets worse."""
    return dataclasses.replace(
        planned,
        n_epochs=12,
        total_steps=72,
        optimizer=dataclasses.replace(planned.optimizer, learning_rate=0.003),
        early_stopping=EarlyStopping(patience=4),
        snapshot_seconds=0.0,
    )


@pytest.fixture(scope="module")
def straight(overfitting, tmp_path_factory):
    """That plan, run without a break."""
    run = prepare(overfitting, tmp_path_factory.mktemp("runs") / "straight")
    assert start(run, 1).wait(timeout=120) == 0
    return run


def full_losses(run) -> dict[int, float]:
    measured = steps_of(run).items()
    return {n: data["full_valid_loss"] for n, data in measured if "full_valid_loss" in data}


def rows_of(run, attempt) -> list[dict[str, str]]:
    with (run.path / read_exit(run.attempt(attempt)).row_losses).open() as file:
        return list(csv.DictReader(file))


def test_training_ends_early_and_the_model_is_the_best_checkpoint(straight, overfitting):
    losses = full_losses(straight)
    best = min(losses, key=losses.get)
    ended = read_exit(straight.attempt(1))
    assert ended.status is ExitStatus.SUCCEEDED
    assert ended.step == max(losses) == best + 24 < overfitting.total_steps
    assert ended.model_folder == f"checkpoints/step-{best:06d}"
    assert ended.metrics["full_valid_loss"] == losses[best]
    kept = {path.name for path in straight.checkpoints.iterdir()}
    assert f"step-{best:06d}" in kept
    assert len(kept) == 3
    said = events_of(straight, 1)
    assert f"Training ends early at step {ended.step}" in " ".join(said)
    assert f"The model is checkpoint step {best}, whose validation loss" in " ".join(said)
    assert f"the validation loss has risen since step {best}" in " ".join(said)


def test_each_row_is_told_once_with_its_losses_as_the_model_saw_them(straight):
    told = rows_of(straight, 1)
    places = [(row["file"], int(row["row"])) for row in told]
    assert places == [
        *(("training", n) for n in range(1, 24)),
        *(("validation", n) for n in range(1, 13)),
    ]
    assert all(int(row["tokens"]) > 0 for row in told)
    losses = full_losses(straight)
    best = min(losses, key=losses.get)
    assert best == 6
    assert all(row["last_loss"] == row["first_loss"] for row in told), "it saw each row once"
    validation = [float(row["last_loss"]) for row in told if row["file"] == "validation"]
    assert min(validation) <= losses[best] <= max(validation)


@pytest.mark.parametrize("point", ["step@20", "exit.write", "checkpoint.dirsync@25"])
def test_a_kill_changes_neither_when_it_ends_nor_what_becomes_the_model(
    point, overfitting, straight, tmp_path
):
    run = prepare(overfitting, tmp_path / "run")
    killed = start(run, 1, f"{point}:{tmp_path / 'marker'}")
    assert killed.wait(timeout=120) == -signal.SIGKILL
    attempt = finish(run, 2)
    assert steps_of(run) == steps_of(straight)
    ended, expected = read_exit(run.attempt(attempt)), read_exit(straight.attempt(1))
    assert (ended.step, ended.model_folder) == (expected.step, expected.model_folder)
    assert rows_of(run, attempt) == rows_of(straight, 1)
    model = run.path / ended.model_folder / "adapter_model.safetensors"
    twin = straight.path / expected.model_folder / "adapter_model.safetensors"
    assert hash_file(model) == hash_file(twin)
    assert {p.name for p in run.checkpoints.iterdir()} == {
        p.name for p in straight.checkpoints.iterdir()
    }


def test_without_early_stopping_the_model_is_the_last_checkpoint(planned, tmp_path):
    fast = dataclasses.replace(planned.optimizer, learning_rate=0.003)
    spec = dataclasses.replace(planned, n_epochs=8, total_steps=48, optimizer=fast)
    run = prepare(spec, tmp_path / "run")
    assert start(run, 1).wait(timeout=120) == 0
    ended = read_exit(run.attempt(1))
    assert (ended.step, ended.model_folder) == (48, "checkpoints/step-000048")
    losses = full_losses(run)
    assert min(losses, key=losses.get) < 48, "the best was another one"
    told = [row for row in rows_of(run, 1) if row["file"] == "training"]
    assert all(float(row["last_loss"]) < float(row["first_loss"]) for row in told)


def test_a_last_step_within_an_epoch_leaves_a_model_too(planned, tmp_path):
    run = prepare(dataclasses.replace(planned, total_steps=8), tmp_path / "run")
    assert start(run, 1).wait(timeout=120) == 0
    ended = read_exit(run.attempt(1))
    assert (ended.step, ended.model_folder) == (8, "checkpoints/step-000008")
    verify(run.path / ended.model_folder)


def test_what_a_run_needs_is_told_once_before_its_first_step(straight):
    said = events_of(straight, 1)
    assert "Training needs about" in said[0]
    assert "72 steps of about" in said[0]
    needs = read_json(straight.measured)["told_needs"]
    assert 10**8 < needs["bytes"] < 10**10


def test_an_allocation_that_fails_is_tried_again_with_half_the_tokens(planned, tmp_path):
    spec = dataclasses.replace(planned, micro_batch_tokens=512, snapshot_seconds=0.0)
    run = prepare(spec, tmp_path / "run")
    assert start(run, 1, f"step@5/MEMORY:{tmp_path / 'marker'}").wait(timeout=60) == 1
    ended = read_exit(run.attempt(1))
    assert (ended.code, ended.is_retryable) == ("out_of_memory", True)
    assert start(run, 2).wait(timeout=60) == 0
    said = " ".join(events_of(run, 2))
    assert "at most 256 tokens instead of 512; a batch still has 4 rows" in said
    assert read_json(run.measured)["micro_batch_tokens"] == 256
    assert sorted(steps_of(run)) == list(range(1, 13))
    card = read_json(run.checkpoints / "step-000012" / "model_card.json")
    assert card["settings"]["micro_batch_tokens"] == 256
    assert card["settings"]["batch_size"] == 4


def test_a_trainer_that_the_kernel_ended_is_tried_again_with_half_the_tokens_and_once_only(
    planned, tmp_path
):
    spec = dataclasses.replace(planned, micro_batch_tokens=512, snapshot_seconds=0.0)
    run = prepare(spec, tmp_path / "run")
    killed = start(run, 1, f"step@3:{tmp_path / 'first'}")
    assert killed.wait(timeout=60) == -signal.SIGKILL
    diary = run.attempt(1).path / "memory.json"
    told = read_json(diary)
    # What the kernel's own kill leaves: no exit record, and a process near its limit.
    write_json(diary, {**told, "peak_bytes": told["limit_bytes"]})
    assert start(run, 2, f"step@3:{tmp_path / 'second'}").wait(timeout=60) == -signal.SIGKILL
    assert "256 tokens instead of 512" in " ".join(events_of(run, 2))
    assert start(run, 3).wait(timeout=60) == 0
    assert "instead of" not in " ".join(events_of(run, 3)), "a plain kill halves nothing"
    assert read_json(run.measured)["micro_batch_tokens"] == 256


def test_memory_that_one_row_fills_ends_the_run_with_advice(planned, tmp_path):
    spec = dataclasses.replace(planned, micro_batch_tokens=64)
    run = prepare(spec, tmp_path / "run")
    assert start(run, 1, f"step@2/MEMORY:{tmp_path / 'marker'}").wait(timeout=60) == 1
    assert start(run, 2).wait(timeout=60) == 1
    ended = read_exit(run.attempt(2))
    assert (ended.code, ended.is_retryable) == ("insufficient_memory", False)
    assert "one row at a time" in ended.message
    assert "Shorten the rows" in ended.message


def test_a_trainer_that_wakes_up_in_the_middle_of_a_save_gives_it_no_name(planned, tmp_path):
    spec = dataclasses.replace(planned, snapshot_seconds=0.0)
    run = prepare(spec, tmp_path / "run")
    first = start(run, 1, f"checkpoint.rename@2/STOP:{tmp_path / 'marker'}")
    wait_until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED)
    (work,) = run.snapshots.glob(".step-*.work")
    hidden = work.rename(tmp_path / "hidden")  # its successor would sweep it away
    run.lock.unlink()
    assert start(run, 2).wait(timeout=60) == 0
    hidden.rename(work)
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(timeout=60) == 1
    assert "A later attempt has taken the run over" in read_exit(run.attempt(1)).message
    assert list(run.snapshots.iterdir()) == []


def test_a_trainer_that_wakes_up_after_its_successor_writes_nothing_that_both_share(
    planned, tmp_path
):
    spec = dataclasses.replace(planned, snapshot_seconds=0.0)
    run = prepare(spec, tmp_path / "run")
    first = start(run, 1, f"step@2/STOP:{tmp_path / 'marker'}")
    wait_until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED)
    run.lock.unlink()  # as a network file system may lose it
    assert start(run, 2).wait(timeout=60) == 0

    def state() -> dict[str, str]:
        shared = [run.measured, *run.attempt(2).path.rglob("*"), *run.checkpoints.rglob("*")]
        return {str(path): hash_file(path) for path in shared if path.is_file()}

    before, snapshots = state(), list(run.snapshots.iterdir())
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(timeout=60) == 1
    assert "A later attempt has taken the run over" in read_exit(run.attempt(1)).message
    assert state() == before
    assert list(run.snapshots.iterdir()) == snapshots
    for folder in run.checkpoints.iterdir():
        verify(folder)


def test_a_checkpoint_of_another_job_is_refused_and_left_as_it_is(planned, straight, tmp_path):
    run = prepare(dataclasses.replace(planned, run_id="run-other"), tmp_path / "run")
    (foreign,) = [p for p in straight.checkpoints.iterdir() if p.name == "step-000012"] or [
        sorted(straight.checkpoints.iterdir())[0]
    ]
    copy = run.checkpoints / foreign.name
    shutil.copytree(foreign, copy)
    assert start(run, 1).wait(timeout=60) == 1
    ended = read_exit(run.attempt(1))
    assert ended.code == "model_refused"
    assert f"{foreign.name} belongs to {planned.run_id}, not to run-other" in ended.message
    assert steps_of(run) == {}
    verify(copy)
