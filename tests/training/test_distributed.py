"""Two processes learn what one does, stop and fail together, and resume each other's runs."""

from __future__ import annotations

import csv
import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_kit import ends_of, launch, said, start_ranks, start_two
from run_kit import StopAfter, attempt_in_process, events_of, pair, prepare, row, steps_of
from safetensors.torch import load_file

from sintonia import workflow
from sintonia.data.forest import EncodedSequence, count_tokens
from sintonia.domain.methods import Hyperparameters
from sintonia.errors import TrainerFailed
from sintonia.models.learning import learning
from sintonia.models.load import load_base
from sintonia.runs import memory
from sintonia.runs.layout import RunFolder, step_of
from sintonia.runs.records import ExitStatus, read_exit
from sintonia.runs.spec import Origin, TrainSpec
from sintonia.sealed import write_json
from sintonia.training.distributed import World, _digest
from sintonia.training.estimate import weight_bytes
from sintonia.training.fitting import Fitting
from sintonia.training.measured import Measured
from sintonia.training.reporter import Reporter
from sintonia.training.shards import shards

STEPS = 5
"""Over 17 rows in batches of 4: the last one has a single row, and one process none."""
CLOSE = 1e-5


def plan_of(folder: Path, home: Path, make_row) -> TrainSpec:
    (folder / "train.jsonl").write_text("\n".join(make_row(n) for n in range(17)))
    (folder / "valid.jsonl").write_text("\n".join(make_row(n) for n in range(50, 61)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(home))
        training = workflow.validate(folder / "train.jsonl", base="tiny")
        validation = workflow.validate(folder / "valid.jsonl", base="tiny")
        chosen = Hyperparameters(n_epochs=1, batch_size=4)
        plan = workflow.plan(training, base="tiny", validation=validation, hyperparameters=chosen)
    assert plan.total_steps == STEPS
    return dataclasses.replace(
        plan,
        threads=1,
        micro_batch_tokens=128,
        validate_every_steps=2,
        snapshot_seconds=0.0,
        optimizer=dataclasses.replace(plan.optimizer, learning_rate=1e-3),
        origins={**plan.origins, "precision": Origin.GIVEN},
    )


@pytest.fixture(scope="module", params=[row, pair], ids=["sft", "dpo"])
def plan(request, tiny_home, tmp_path_factory) -> TrainSpec:
    return plan_of(tmp_path_factory.mktemp("files"), tiny_home, request.param)


@pytest.fixture(scope="module")
def spec(tiny_home, tmp_path_factory) -> TrainSpec:
    return plan_of(tmp_path_factory.mktemp("files"), tiny_home, row)


@pytest.fixture(scope="module")
def alone(spec, tmp_path_factory) -> RunFolder:
    """The run in one process, without a break."""
    return trained_alone(spec, tmp_path_factory.mktemp("alone") / "run")


def trained_alone(spec: TrainSpec, folder: Path) -> RunFolder:
    record = attempt_in_process(spec, folder)
    assert record.status is ExitStatus.SUCCEEDED, record.message
    return RunFolder(folder)


def row_losses_of(run: RunFolder, attempt: int) -> list[list[str | float]]:
    with (run.path / read_exit(run.attempt(attempt)).row_losses).open() as file:
        rows = list(csv.reader(file))
    return [[*cells[:3], *(float(cell) for cell in cells[3:])] for cells in rows[1:]]


def assert_alike(run: RunFolder, attempt: int, other: RunFolder) -> None:
    """All that was measured, each row's losses and the weights are the same but for rounding."""
    ended = read_exit(run.attempt(attempt))
    assert ended is not None
    assert ended.status is ExitStatus.SUCCEEDED, ended.message
    found, expected = steps_of(run), steps_of(other)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    for measured in (found, expected):  # before the first update margins are zero but for rounding
        measured[1].pop("train_reward_accuracy", None)
    for step, measured in expected.items():
        assert found[step] == pytest.approx(measured, rel=0, abs=CLOSE)
    assert expected[1]["train_loss"] != pytest.approx(expected[STEPS]["train_loss"], abs=1e-3)
    rows, other_rows = row_losses_of(run, attempt), row_losses_of(other, 1)
    assert [cells[:3] for cells in rows] == [cells[:3] for cells in other_rows]
    assert np.allclose([c[3:] for c in rows], [c[3:] for c in other_rows], rtol=0, atol=2 * CLOSE)
    weights, other_weights = (
        load_file(folder.path / ended.model_folder / "adapter_model.safetensors")
        for folder in (run, other)
    )
    for name, tensor in other_weights.items():
        assert torch.allclose(weights[name], tensor, rtol=0, atol=CLOSE), name


def test_two_processes_learn_and_measure_what_one_does(plan, tmp_path):
    one, run = trained_alone(plan, tmp_path / "one"), prepare(plan, tmp_path / "two")
    write_json(run.measured, {"threads": 4})
    assert ends_of([launch(run, 1)]) == [0], said(run.attempt(1).path)
    assert_alike(run, 1, one)
    assert events_of(run, 1)[0] == "2 processes train together; threads of each: 2"
    names = {path.name for path in run.attempt(1).path.iterdir()}
    assert names == {path.name for path in one.attempt(1).path.iterdir()} | {"output.log"}


def test_a_signal_to_one_process_stops_both_at_one_step_and_one_goes_on(spec, alone, tmp_path):
    run = prepare(spec, tmp_path / "run")
    both = start_ranks(run, 1, {1: f"step@2/TERM:{tmp_path / 'marker'}"})
    assert ends_of(both) == [0, 0], said(run.attempt(1).path)
    ended = read_exit(run.attempt(1))
    assert (ended.status, ended.step) == (ExitStatus.STOPPED, 2)
    assert step_of(run.resume_points()[0]) == 2
    trained_alone(spec, run.path)
    assert_alike(run, 2, alone)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_attempt_and_the_next_goes_on(killed, spec, alone, tmp_path):
    run = prepare(spec, tmp_path / "run")
    both = start_ranks(run, 1, {killed: f"step@3:{tmp_path / 'marker'}"})
    ends = ends_of(both)
    assert (ends[killed], ends[1 - killed]) == (-signal.SIGKILL, 1), said(run.attempt(1).path)
    assert read_exit(run.attempt(1)) is None, "as if the only process had been killed"
    assert "ended without a word" in said(run.attempt(1).path)
    assert step_of(run.resume_points()[0]) == 2
    if killed == 0:
        trained_alone(spec, run.path)
        assert_alike(run, 2, alone)
        return
    assert "ended without a word" in events_of(run, 1)[-1]
    # One process goes on for a step, and then two again.
    assert attempt_in_process(spec, run.path, StopAfter(1)).step == 3
    assert ends_of(start_ranks(run, 3, {})) == [0, 0], said(run.attempt(3).path)
    assert_alike(run, 3, alone)


def test_what_fails_in_one_process_is_told_by_the_first_and_ends_both(spec, alone, tmp_path):
    run = prepare(spec, tmp_path / "run")
    lacked_memory = start_ranks(run, 1, {1: f"step@3/MEMORY:{tmp_path / 'first'}"})
    assert ends_of(lacked_memory) == [1, 1], said(run.attempt(1).path)
    ended = read_exit(run.attempt(1))
    assert (ended.status, ended.code) == (ExitStatus.FAILED, "out_of_memory")
    assert ended.is_retryable
    lacked_room = start_ranks(run, 2, {0: f"checkpoint.write@1/FULL:{tmp_path / 'second'}"})
    assert ends_of(lacked_room) == [1, 1], said(run.attempt(2).path)
    assert read_exit(run.attempt(2)).code == "insufficient_storage"
    assert "64 tokens instead of 128" in " ".join(events_of(run, 2))
    trained_alone(spec, run.path)
    assert_alike(run, 3, alone)


def test_processes_agree_in_words_turns_gradients_weights_and_failures(tmp_path):
    both = start_two((str(Path(__file__).with_name("together.py")),), tmp_path, {})
    assert ends_of(both) == [0, 0], said(tmp_path)


def sequences(*rows: list[list[int]]) -> list[EncodedSequence]:
    return [
        EncodedSequence(np.array(tokens, np.int32), 1, 1.0, number, place)
        for number, row in enumerate(rows)
        for place, tokens in enumerate(row)
    ]


def rows_in(shard: list[EncodedSequence]) -> list[int]:
    return sorted({sequence.row for sequence in shard})


def test_rows_that_begin_alike_go_to_one_process():
    first, second = [1] * 10, [2] * 10
    batch = sequences([[*first, 3]], [[*second, 3]], [[*first, 4]], [[*second, 4]])
    assert [rows_in(shard) for shard in shards(batch, 2)] == [[0, 2], [1, 3]]


def test_work_is_shared_by_computed_tokens_and_not_by_rows():
    long, stem = [9] * 60, [1] * 10
    batch = sequences([long], *([[*stem, n]] for n in range(2, 8)))
    assert [rows_in(shard) for shard in shards(batch, 2)] == [[1, 2, 3, 4, 5, 6], [0]]
    numbers = np.random.default_rng(0)
    batch = sequences(*([numbers.integers(0, 99, n).tolist()] for n in numbers.integers(5, 50, 64)))
    sizes = [count_tokens(shard) for shard in shards(batch, 4)]
    assert max(sizes) < 1.1 * sum(sizes) / 4


def test_a_pair_stays_whole_and_every_row_is_learned_once():
    batch = sequences(*([[1, n, 5], [1, n, 6, 7]] for n in range(9)))
    for number in (1, 2, 3, 9, 12):
        cut = shards(batch, number)
        assert len(cut) == number
        assert sorted(row for shard in cut for row in rows_in(shard)) == list(range(9))
        assert all(len(shard) == 2 * len(rows_in(shard)) for shard in cut)
    assert shards([], 2) == [[], []]


def test_each_process_drops_other_inputs(tiny_folder):
    model, drawn = load_base(tiny_folder), []
    for rank in ((), (0,), (1,), (2,)):
        with learning(model, 7, 3, *rank):
            drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1], "the first draws what one process alone would"
    assert len(set(drawn)) == 3


def test_processes_of_one_machine_share_its_memory(planned, tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.attempt(1).path.mkdir()
    monkeypatch.setattr(memory, "limit_bytes", lambda: int(1.5 * weight_bytes(planned)))
    reporter = Reporter(run.attempt(1))
    Fitting(Measured(run), reporter).check_weights(planned, "cpu")
    two = Fitting(Measured(run), reporter, World(size=2, local_size=2))
    with pytest.raises(TrainerFailed, match="each of 2 processes on this machine has"):
        two.check_weights(planned, "cpu")
    apart = Fitting(Measured(run), reporter, World(size=2, local_size=1))
    apart.check_weights(planned, "cpu")
    reporter.close()


def test_weights_that_only_changed_places_are_not_the_same():
    weights = torch.arange(12, dtype=torch.bfloat16).view(3, 4)
    first, moved = torch.nn.Parameter(weights), torch.nn.Parameter(weights.flip(0))
    assert _digest([first]) == _digest([torch.nn.Parameter(weights.clone())])
    assert _digest([first]) != _digest([moved])
    assert _digest([torch.nn.Parameter(torch.tensor(1.0))])
