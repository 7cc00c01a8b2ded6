"""A run that learns preferences compares with the same start, however often it was killed."""

from __future__ import annotations

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
from run_kit import finish, pair, prepare, start, steps_of

from sintonia import workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.errors import InvalidData
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import ExitStatus, read_exit
from sintonia.runs.spec import AdapterRef, TrainSpec
from sintonia.sealed import hash_file, verify, write_json

PART, ARRAY = "rows-000000000", "log_probabilities.npy"
REWARDS = {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "train.jsonl").write_text("\n".join(pair(n) for n in range(14)))
    (folder / "valid.jsonl").write_text("\n".join(pair(n) for n in range(50, 60)))
    (folder / "chat.jsonl").write_text(
        "\n".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"{n}"},
                        {"role": "assistant", "content": "a"},
                    ]
                }
            )
            for n in range(10)
        )
    )
    return folder


@pytest.fixture(scope="module")
def spec(tiny_home, files) -> TrainSpec:
    """A plan of 2 epochs of 4 steps over pairs, with validation and snapshots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        report = workflow.validate(files / "train.jsonl", base="tiny")
        validation = workflow.validate(files / "valid.jsonl", base="tiny")
        chosen = Hyperparameters(n_epochs=2, batch_size=4, beta=0.5, learning_rate_multiplier=100.0)
        plan = workflow.plan(report, base="tiny", validation=validation, hyperparameters=chosen)
    assert (plan.objective, plan.dpo.beta) == ("dpo", 0.5)
    return dataclasses.replace(plan, snapshot_seconds=0.0, threads=1)


def fresh(spec: TrainSpec, folder) -> RunFolder:
    """A run whose measured choices are given, so that two of them are alike."""
    run = prepare(spec, folder)
    write_json(run.measured, {"threads": 1, "precision": "float32"})
    return run


@pytest.fixture(scope="module")
def reference(spec, tmp_path_factory) -> RunFolder:
    run = fresh(spec, tmp_path_factory.mktemp("runs") / "reference")
    assert start(run, 1).wait(timeout=120) == 0, run.attempt(1).output.read_text()
    return run


def test_an_uninterrupted_run_measures_rewards_and_keeps_its_reference(reference):
    steps = steps_of(reference)
    assert sorted(steps) == list(range(1, 9))
    assert steps[1]["train_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert {f"train_{name}" for name in REWARDS} <= set(steps[1])
    assert {f"full_valid_{name}" for name in REWARDS} <= set(steps[4])
    assert steps[8]["full_valid_loss"] < math.log(2)
    assert steps[8]["full_valid_reward_margin"] > 0
    for what, answers in (("training", 28), ("validation", 20)):
        verify(reference.references / what / PART)
        found = np.load(reference.references / what / PART / ARRAY)
        assert found.shape == (answers,)
        assert (found < 0).all()


@pytest.mark.parametrize("point", ["step@6", "checkpoint.fsync@1", "checkpoint.rename@2"])
def test_a_kill_changes_nothing(point, spec, reference, tmp_path):
    run = fresh(spec, tmp_path / "run")
    killed = start(run, 1, f"{point}:{tmp_path / 'marker'}")
    assert killed.wait(timeout=120) == -signal.SIGKILL
    attempt = finish(run, 2)
    assert read_exit(run.attempt(attempt)).status is ExitStatus.SUCCEEDED
    assert steps_of(run) == steps_of(reference)
    for name in ("adapter_model.safetensors", "state.safetensors"):
        ours, theirs = (r.checkpoints / "step-000008" / name for r in (run, reference))
        assert hash_file(ours) == hash_file(theirs)


def test_a_damaged_reference_is_made_again_from_the_start_and_not_from_the_resumed_model(
    spec, reference, tmp_path
):
    run = fresh(spec, tmp_path / "run")
    killed = start(run, 1, f"step@6:{tmp_path / 'marker'}")
    assert killed.wait(timeout=120) == -signal.SIGKILL
    array = run.references / "training" / PART / ARRAY
    array.write_bytes(array.read_bytes()[:-8])
    finish(run, 2)
    assert array.read_bytes() == (reference.references / "training" / PART / ARRAY).read_bytes()
    assert steps_of(run) == steps_of(reference)


def test_a_stop_between_two_parts_of_the_reference_keeps_the_first(spec, reference, tmp_path):
    run = fresh(spec, tmp_path / "run")
    stopped = start(run, 1, f"checkpoint.rename@1/TERM:{tmp_path / 'marker'}")
    assert stopped.wait(timeout=120) == 0
    record = read_exit(run.attempt(1))
    assert (record.status, record.step) == (ExitStatus.STOPPED, 0)
    first = run.references / "training" / PART / ARRAY
    made_at = first.stat().st_mtime_ns
    assert not (run.references / "validation").exists()
    finish(run, 2)
    assert first.stat().st_mtime_ns == made_at
    assert steps_of(run) == steps_of(reference)


def test_a_continued_run_compares_with_the_adapter_that_it_starts_from(spec, reference, tmp_path):
    folder = reference.checkpoints / "step-000008"
    parent = AdapterRef("ft:tiny:me::x", str(folder), hash_file(folder / "manifest.json"))
    run = fresh(dataclasses.replace(spec, parent=parent), tmp_path / "run")
    assert start(run, 1).wait(timeout=120) == 0, run.attempt(1).output.read_text()
    first = steps_of(run)[1]
    assert first["train_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["train_reward_margin"] == pytest.approx(0, abs=1e-5)
    before = np.load(reference.references / "training" / PART / ARRAY)
    after = np.load(run.references / "training" / PART / ARRAY)
    assert np.abs(after - before).max() > 0.1, "the parent is not the bare base"


def test_the_library_refuses_a_validation_file_of_another_method(files, tiny_home, monkeypatch):
    monkeypatch.setenv("SINTONIA_HOME", str(tiny_home))
    report = workflow.validate(files / "train.jsonl", base="tiny")
    chat = workflow.validate(files / "chat.jsonl", base="tiny")
    with pytest.raises(InvalidData, match="not using 'supervised' as the training method"):
        workflow.plan(report, base="tiny", validation=chat)
