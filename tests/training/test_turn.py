"""Without the lock an attempt sees before each shared write that a later one works."""

from __future__ import annotations

import numpy as np
import pytest

from sintonia.errors import AlreadyRunning
from sintonia.runs.layout import RunFolder
from sintonia.sealed import read_json
from sintonia.training.checkpoint import Checkpoints
from sintonia.training.measured import Measured
from sintonia.training.reference import Reference
from sintonia.training.room import Room
from sintonia.training.turn import Turn


@pytest.fixture
def turn(tmp_path) -> Turn:
    """The turn of the first attempt, while a second one works."""
    run = RunFolder(tmp_path)
    for number in (1, 2):
        run.attempt(number).path.mkdir()
    return Turn(run, run.attempt(1))


def overtake(turn: Turn) -> None:
    turn.run.attempt(2).records.touch()


def test_an_attempt_has_its_turn_until_a_later_one_speaks(turn):
    turn.require()
    overtake(turn)
    with pytest.raises(AlreadyRunning, match="A later attempt has taken the run over"):
        turn.require()
    Turn(turn.run, turn.run.attempt(2)).require()


def test_what_a_later_attempt_measured_is_not_undone(turn):
    measured = Measured(turn.run, turn.require)
    measured.change("micro_batch_tokens", 512)
    overtake(turn)
    Measured(turn.run).change("micro_batch_tokens", 256)
    with pytest.raises(AlreadyRunning):
        measured.change("told_needs", {})
    assert read_json(turn.run.measured) == {"micro_batch_tokens": 256}


def test_what_a_later_attempt_is_saving_is_not_tidied_away(turn, planned):
    work = turn.run.snapshots / ".step-000003.7.work"
    work.mkdir(parents=True)
    overtake(turn)
    with pytest.raises(AlreadyRunning):
        Checkpoints(turn.run, planned, Room(turn.run.path, 1), turn.require)
    assert work.is_dir()


def test_scores_of_a_later_attempt_are_left_alone(turn, planned):
    work = turn.run.references / "training" / ".rows-000000000.work"
    work.mkdir(parents=True)
    overtake(turn)
    reference = Reference(turn.run, planned, None, None, None, require_turn=turn.require)
    with pytest.raises(AlreadyRunning):
        reference._write(work.with_name("rows-000000000"), np.zeros(3))
    assert work.is_dir()
