"""The library refuses all that is wrong with a plan at once, and reads a file once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sintonia import settings, workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.errors import InvalidRequest
from sintonia.runs.records import ExitStatus


@pytest.fixture
def home(tiny_home, monkeypatch):
    monkeypatch.setenv("SINTONIA_HOME", str(tiny_home))
    return tiny_home


def write(path: Path, number: int, *others: str) -> Path:
    rows = [
        {"messages": [{"role": role, "content": f"{n}"} for role in ("user", "assistant")]}
        for n in range(number)
    ]
    path.write_text("\n".join([*map(json.dumps, rows), *others]))
    return path


def test_rows_of_both_files_and_every_setting_are_refused_at_once(home, tmp_path):
    training = workflow.validate(write(tmp_path / "train.jsonl", 12, "nothing"), base="tiny")
    validation = workflow.validate(write(tmp_path / "valid.jsonl", 12, "{}"), base="tiny")
    chosen = {"lora": {"rank": 0, "targets": ["w_magic"]}, "schedule": {"warmup_steps": 10**6}}
    with pytest.raises(InvalidRequest) as refused:
        workflow.plan(training, base="tiny", validation=validation, choices=chosen, seed=-1)
    for told in (
        "Setting lora.rank 0",
        "train.jsonl: Example 13 cannot be parsed",
        "valid.jsonl: Example 13",
        "Setting lora.targets w_magic",
        "Setting schedule.warmup_steps 1000000",
        "Seed -1",
    ):
        assert told in refused.value.message


def test_what_was_validated_is_not_read_again(home, tmp_path):
    path = write(tmp_path / "train.jsonl", 12)
    report = workflow.validate(path, base="tiny")
    chosen = Hyperparameters(n_epochs=1, batch_size=6)
    spec = workflow.plan(report, base="tiny", hyperparameters=chosen)
    path.unlink()
    assert workflow.train(spec, tmp_path / "run").status is ExitStatus.SUCCEEDED


def test_a_home_that_keeps_nothing_can_check_a_file(home, tmp_path, monkeypatch):
    (tmp_path / "a-file").touch()
    kept = property(lambda _settings: tmp_path / "a-file" / "samples")
    monkeypatch.setattr(settings.Settings, "samples_folder", kept)
    assert workflow.validate(write(tmp_path / "train.jsonl", 12), base="tiny").is_valid
