"""A run that was killed anywhere ends as an uninterrupted one: the same losses to the bit, the
same weights."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import pytest
from run_kit import finish, prepare, row, start, steps_of

from sintonia import failpoints, workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.runs.layout import RunFolder, step_of
from sintonia.runs.records import ExitStatus, RecordKind, Tail, read_exit
from sintonia.runs.spec import AdapterRef, TrainSpec, read_spec
from sintonia.sealed import hash_file, verify, write_json
from tiny_models import wait_until

TRAINER_POINTS = [
    name
    for name in failpoints.NAMES
    if name.startswith("checkpoint.") or name in {"step", "record.write", "exit.write"}
]


@pytest.fixture(scope="module")
def spec(tiny_home, tmp_path_factory) -> TrainSpec:
    """A plan of 3 epochs of 6 steps over unequal rows, with validation and snapshots."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "train.jsonl").write_text("\n".join(row(n) for n in range(23)))
    (folder / "valid.jsonl").write_text("\n".join(row(n) for n in range(50, 62)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        patch.setenv("SINTONIA_SNAPSHOT_SECONDS", "0.0")
        report = workflow.validate(folder / "train.jsonl", base="tiny")
        validation = workflow.validate(folder / "valid.jsonl", base="tiny")
        chosen = Hyperparameters(n_epochs=3, batch_size=4)
        plan = workflow.plan(report, base="tiny", validation=validation, hyperparameters=chosen)
    return dataclasses.replace(plan, snapshot_seconds=0.0, threads=1)


def assert_equals(run: RunFolder, reference: RunFolder, attempt: int) -> None:
    record = read_exit(run.attempt(attempt))
    assert record is not None
    assert record.status is ExitStatus.SUCCEEDED
    assert steps_of(run) == steps_of(reference)
    for folder in reference.checkpoints.iterdir():
        for name in ("adapter_model.safetensors", "state.safetensors"):
            twin = run.checkpoints / folder.name / name
            assert hash_file(twin) == hash_file(folder / name)
    assert {p.name for p in run.checkpoints.iterdir()} == {
        p.name for p in reference.checkpoints.iterdir()
    }


@pytest.fixture(scope="module")
def reference(spec, tmp_path_factory) -> RunFolder:
    run = prepare(spec, tmp_path_factory.mktemp("runs") / "reference")
    assert start(run, 1).wait(timeout=120) == 0
    return run


def test_an_uninterrupted_run_says_everything(reference, spec):
    record = read_exit(reference.attempt(1))
    assert record.status is ExitStatus.SUCCEEDED
    assert (record.step, record.model_folder) == (18, "checkpoints/step-000018")
    steps = steps_of(reference)
    assert sorted(steps) == list(range(1, 19))
    assert steps[18]["train_loss"] < steps[1]["train_loss"]
    assert {"full_valid_loss", "full_valid_mean_token_accuracy", "valid_loss"} <= set(steps[6])
    assert "full_valid_loss" not in steps[5]
    assert sorted(p.name for p in reference.checkpoints.iterdir()) == [
        "step-000006",
        "step-000012",
        "step-000018",
    ]
    assert not list(reference.snapshots.iterdir())
    card = json.loads((reference.checkpoints / "step-000018" / "model_card.json").read_text())
    assert card["base"]["sha256"] == spec.base.sha256
    assert card["training_file"]["sha256"] == spec.training.sha256
    assert card["template_sha256"] == spec.template_sha256
    assert card["stop_tokens"] == ["<|im_end|>"]
    assert card["origins"]["n_epochs"] == "given"
    assert card["settings"]["optimizer"]["learning_rate"] > 0
    assert card["versions"]["torch"]


@pytest.mark.parametrize("point", TRAINER_POINTS)
def test_a_kill_at_a_point_of_writing_changes_nothing(point, spec, reference, tmp_path):
    run = prepare(spec, tmp_path / "run")
    at = 1 if point == "exit.write" else 8
    killed = start(run, 1, f"{point}@{at}:{tmp_path / 'marker'}")
    assert killed.wait(timeout=120) == -signal.SIGKILL
    assert_equals(run, reference, finish(run, 2))


def test_sigterm_ends_with_a_snapshot_and_the_rest_follows(spec, reference, tmp_path):
    only_when_told = dataclasses.replace(spec, snapshot_seconds=3600.0)
    run = prepare(only_when_told, tmp_path / "run")
    stopped = start(run, 1, f"step@8/TERM:{tmp_path / 'marker'}")
    assert stopped.wait(timeout=120) == 0
    assert read_exit(run.attempt(1)).status is ExitStatus.STOPPED
    done = steps_of(run)
    assert 7 <= len(done) <= 8, "it ends with the step that it was in"
    newest = run.resume_points()[0]
    verify(newest)
    assert step_of(newest) == max(done), "the last step is in the snapshot"
    attempt = finish(run, 2)
    resumed, _ = Tail(run.attempt(attempt).records).read()
    first = next(record for record in resumed if record.kind is RecordKind.STEP)
    assert first.data["step"] == max(done) + 1, "no step is trained again"
    assert_equals(run, reference, attempt)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(spec, reference, tmp_path):
    run = prepare(spec, tmp_path / "run")
    killed = start(run, 1, f"checkpoint.dirsync@9:{tmp_path / 'marker'}")
    assert killed.wait(timeout=120) == -signal.SIGKILL
    newest = run.resume_points()[0] / "adapter_model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    attempt = finish(run, 2)
    assert_equals(run, reference, attempt)
    records, _ = Tail(run.attempt(attempt).records).read()
    said = [record.data["message"] for record in records if record.kind is RecordKind.EVENT]
    assert any("damaged" in message for message in said)


def test_a_second_trainer_on_one_run_is_refused(spec, tmp_path):
    run = prepare(spec, tmp_path / "run")
    first = start(run, 1)
    wait_until(lambda: bool(steps_of(run)))
    os.kill(first.pid, signal.SIGSTOP)
    second = start(run, 2)
    assert second.wait(timeout=60) == 1
    assert "Another trainer" in run.attempt(2).output.read_text()
    assert read_exit(run.attempt(2)) is None
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(timeout=60) == 0


def test_a_base_that_changed_since_planning_fails_with_a_reason(spec, tmp_path):
    base = dataclasses.replace(spec.base, sha256="0" * 64)
    run = prepare(dataclasses.replace(spec, base=base), tmp_path / "run")
    assert start(run, 1).wait(timeout=60) == 1
    record = read_exit(run.attempt(1))
    assert record.status is ExitStatus.FAILED
    assert "changed since" in record.message


def test_a_diverging_run_fails_in_words(spec, tmp_path):
    wild = dataclasses.replace(spec.optimizer, learning_rate=1e30, max_gradient_norm=0.0)
    run = prepare(dataclasses.replace(spec, optimizer=wild), tmp_path / "run")
    assert start(run, 1).wait(timeout=60) == 1
    record = read_exit(run.attempt(1))
    assert record.status is ExitStatus.FAILED
    assert "diverged" in record.message


def test_the_library_resumes_a_folder_and_refuses_another_plan(spec, reference):
    from sintonia.errors import InvalidValue

    result = workflow.train(spec, reference.path)
    assert result.status is ExitStatus.SUCCEEDED
    with pytest.raises(InvalidValue, match="another plan"):
        workflow.train(dataclasses.replace(spec, seed=99), reference.path)
    assert read_spec(reference.spec) == spec


def test_two_threads_resume_to_the_bit_too_and_the_card_says_how_many(spec, tiny_home, tmp_path):
    rows = [json.loads(row(n)) for n in range(24)]
    for number, value in enumerate(rows):  # long enough for the work to be split
        value["messages"][-1]["content"] *= 10 + number
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        report = workflow.validate(tmp_path / "train.jsonl", base="tiny")
        chosen = Hyperparameters(n_epochs=2, batch_size=12)
        plan = workflow.plan(report, base="tiny", hyperparameters=chosen)
    plan = dataclasses.replace(plan, snapshot_seconds=0.0, threads=0)
    straight, run = prepare(plan, tmp_path / "straight"), prepare(plan, tmp_path / "run")
    for folder in (straight, run):
        write_json(folder.measured, {"threads": 2})
    assert start(straight, 1).wait(timeout=120) == 0
    assert start(run, 1, f"step@3:{tmp_path / 'marker'}").wait(timeout=120) == -signal.SIGKILL
    assert_equals(run, straight, finish(run, 2))
    card = json.loads((run.checkpoints / "step-000004" / "model_card.json").read_text())
    assert card["settings"]["threads"] == 2


def test_a_line_torn_by_a_kill_loses_nothing(spec, reference, tmp_path):
    run = prepare(spec, tmp_path / "run")
    killed = start(run, 1, f"record.write@5:{tmp_path / 'marker'}")
    assert killed.wait(timeout=120) == -signal.SIGKILL
    whole = run.attempt(1).records.read_bytes()
    assert whole.endswith(b"\n")
    run.attempt(1).records.write_bytes(whole + b'{"number": 5, "kind": "step", "ti')
    records, tail = Tail(run.attempt(1).records).read()
    assert [record.number for record in records] == [1, 2, 3, 4]
    assert tail.offset == len(whole)
    assert_equals(run, reference, finish(run, 2))


def test_a_parent_that_is_not_the_planned_one_is_refused(spec, reference, tmp_path):
    folder = reference.checkpoints / "step-000018"
    parent = AdapterRef("ft:tiny:me::x", str(folder), "0" * 64)
    run = prepare(dataclasses.replace(spec, parent=parent), tmp_path / "run")
    assert start(run, 1).wait(timeout=60) == 1
    record = read_exit(run.attempt(1))
    assert record.code == "model_refused"
    assert "ft:tiny:me::x, which training goes on from, changed" in record.message
    sha256 = hash_file(folder / "manifest.json")
    good = dataclasses.replace(parent, sha256=sha256)
    run = prepare(dataclasses.replace(spec, parent=good, n_epochs=1, total_steps=6), tmp_path / "b")
    assert start(run, 1).wait(timeout=60) == 0
    assert steps_of(run)[1]["train_loss"] < steps_of(reference)[1]["train_loss"]


def test_the_same_plan_has_the_same_id_and_another_has_its_own(spec, tiny_home, tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(row(n) for n in range(12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        report = workflow.validate(tmp_path / "train.jsonl", base="tiny")
        first, again = (workflow.plan(report, base="tiny") for _ in range(2))
        other = workflow.plan(report, base="tiny", seed=1)
    assert first == again
    assert len({first.run_id, other.run_id, spec.run_id}) == 3
    assert first.run_id.startswith("run-")
