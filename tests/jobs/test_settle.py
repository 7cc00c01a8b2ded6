"""Settling: served folders and the result file."""

from __future__ import annotations

import pytest

from sintonia.errors import DamagedCheckpoint
from sintonia.jobs.settle import make_served_folder, result_table
from sintonia.sealed import hash_file, seal, verify

NAMES = ("adapter_model.safetensors", "tokenizer.json", "state.safetensors", "state.json")


@pytest.fixture
def source(tmp_path):
    return make_checkpoint(tmp_path, "step-000002", "first")


def make_checkpoint(folder, name, content):
    work = folder / f".{name}.work"
    work.mkdir()
    for file in NAMES:
        (work / file).write_text(f"{file} {content}")
    seal(work, folder / name)
    return folder / name


def test_a_served_folder_has_all_but_the_trainers_state(source, tmp_path):
    final = tmp_path / "tuned" / "ftjob-x"
    sha256 = make_served_folder(source, final)
    manifest = verify(final)
    assert set(manifest["files"]) == {"adapter_model.safetensors", "tokenizer.json"}
    assert sha256 == hash_file(final / "manifest.json")


def test_making_it_again_changes_nothing(source, tmp_path):
    final = tmp_path / "tuned" / "ftjob-x"
    sha256 = make_served_folder(source, final)
    made_at = final.stat().st_mtime_ns
    assert make_served_folder(source, final) == sha256
    assert final.stat().st_mtime_ns == made_at


def test_a_torn_or_stale_folder_is_made_anew(source, tmp_path):
    final = tmp_path / "tuned" / "ftjob-x"
    sha256 = make_served_folder(source, final)
    (final / "tokenizer.json").write_text("torn")
    half = final.with_name(".ftjob-x.tmp")
    half.mkdir()
    (half / "left behind").write_text("x")
    assert make_served_folder(source, final) == sha256
    assert not half.exists()
    other = make_checkpoint(tmp_path, "step-000004", "second")
    assert make_served_folder(other, final) != sha256
    assert (final / "tokenizer.json").read_text() == "tokenizer.json second"


def test_a_damaged_checkpoint_is_noticed_before_it_is_copied(source, tmp_path):
    (source / "tokenizer.json").write_text("flipped")
    with pytest.raises(DamagedCheckpoint):
        make_served_folder(source, tmp_path / "tuned" / "ftjob-x")
    assert not (tmp_path / "tuned").exists()


def test_the_result_file_has_openais_columns_and_empty_cells():
    rows = [
        {"step": 1, "train_loss": 3.632651, "train_mean_token_accuracy": 0.5, "epoch": 1},
        {
            "step": 2,
            "train_loss": 1e-7,
            "train_mean_token_accuracy": 1.0,
            "valid_loss": 12.0,
            "valid_mean_token_accuracy": 0.0,
        },
    ]
    assert result_table(rows).decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,3.63265,0.5,,\n"
        "2,0,1,12,0\n"
    )


def test_a_job_that_learned_preferences_has_its_rewards_in_further_columns():
    measured = {"train_reward_accuracy": 0.75, "valid_reward_margin": -0.5}
    table = result_table([{"step": 1, "train_loss": 0.5, **measured}, {"step": 2}])
    header, first, second = table.decode().splitlines()
    columns = header.split(",")
    assert columns[:5] == [
        "step",
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
    ]
    assert dict(zip(columns, first.split(","), strict=True)) == {
        **dict.fromkeys(columns, ""),
        "step": "1",
        "train_loss": "0.5",
        "train_reward_accuracy": "0.75",
        "valid_reward_margin": "-0.5",
    }
    assert len(second.split(",")) == len(columns) == 13
