"""Runs with chosen optimizers, schedules and losses: stopped anywhere, they end as if they had
not been."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from run_kit import StopAfter, attempt_in_process

from sintonia import workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.errors import InvalidValue
from sintonia.runs.records import ExitStatus, RecordKind, Tail
from sintonia.runs.spec import TrainSpec
from sintonia.sealed import hash_file
from sintonia.training.learning_rate import learning_rate_at


def row(number: int) -> str:
    turns = [
        {"role": "user", "content": f"Say {'very ' * (number % 5)}{number}"},
        {"role": "assistant", "content": f"{number * 7 % 10}!" * (1 + number % 3)},
    ]
    return json.dumps({"messages": turns * (1 + number % 2)})


@pytest.fixture
def files(tiny_home, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SINTONIA_HOME", str(tiny_home))
    (tmp_path / "train.jsonl").write_text("\n".join(row(n) for n in range(12)))
    return tmp_path


def planned(files: Path, **choices) -> TrainSpec:
    report = workflow.validate(files / "train.jsonl", base="tiny")
    length = Hyperparameters(n_epochs=2, batch_size=4)
    choices = {"precision": "float32", **choices}
    plan = workflow.plan(report, base="tiny", hyperparameters=length, choices=choices)
    return dataclasses.replace(plan, threads=1)


def steps_of(folder: Path) -> list[dict]:
    found = []
    for records in sorted(folder.glob("attempt-*/records.jsonl")):
        found += [r.data for r in Tail(records).read()[0] if r.kind is RecordKind.STEP]
    return found


RUNS = {
    "adamw": {"schedule": {"name": "cosine"}, "label_smoothing": 0.1, "z_loss": 1e-3},
    "sgd": {
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
        "schedule": {"name": "constant"},
    },
    "adafactor": {
        "optimizer": {"name": "adafactor", "weight_decay": 0.1},
        "schedule": {"name": "wsd", "decay_ratio": 0.5, "floor": 0.1},
    },
    "lion": {"optimizer": {"name": "lion", "beta2": 0.95}, "learn": "last"},
    "muon": {"optimizer": {"name": "muon"}, "lora": {"rank": 4, "rslora": True}},
    "muon, whole": {"optimizer": {"name": "muon"}, "tuning": "full"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_to_the_bit(name, files):
    spec = planned(files, **RUNS[name])
    straight = attempt_in_process(spec, files / "straight")
    assert straight.status is ExitStatus.SUCCEEDED, straight.message
    assert attempt_in_process(spec, files / "run", StopAfter(2)).status is ExitStatus.STOPPED
    resumed = attempt_in_process(spec, files / "run")
    assert resumed.status is ExitStatus.SUCCEEDED, resumed.message
    one, other = steps_of(files / "straight"), steps_of(files / "run")
    assert [s["train_loss"] for s in one] == [s["train_loss"] for s in other]
    assert one[-1]["train_loss"] < one[0]["train_loss"]
    assert [s["learning_rate"] for s in one] == [learning_rate_at(n, spec) for n in range(1, 7)]
    weights = "model.safetensors" if spec.lora is None else "adapter_model.safetensors"
    for file in (weights, "state.safetensors"):
        first = files / "straight" / straight.model_folder / file
        assert hash_file(first) == hash_file(files / "run" / resumed.model_folder / file)


def test_the_library_refuses_choices_by_name(files):
    report = workflow.validate(files / "train.jsonl", base="tiny")
    with pytest.raises(InvalidValue, match=r"Setting lora\.r 8"):
        workflow.plan(report, base="tiny", choices={"lora": {"r": 8}})
    with pytest.raises(InvalidValue, match=r"Setting optimizer\.beta1: sgd has none"):
        workflow.plan(
            report,
            base="tiny",
            choices={"optimizer": {"name": "sgd", "learning_rate": 1, "beta1": 0.9}},
        )
    with pytest.raises(InvalidValue, match="truncate"):
        workflow.plan(report, base="tiny", choices={"truncate": "yes"})
    assert workflow.plan(report, base="tiny", choices={"truncate": True}).truncate
