"""What a run needs is told before it starts, and what cannot fit is refused with what would."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from sintonia.errors import TrainerFailed
from sintonia.models.quantized import BYTES_PER_WEIGHT
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import ExitRecord, ExitStatus, RecordKind, Tail, write_exit
from sintonia.runs.spec import Origin, Quantization
from sintonia.sealed import read_json, write_json
from sintonia.training import memory
from sintonia.training.estimate import Cost, Work, weight_bytes
from sintonia.training.fitting import REFUSED, Fitting, in_words
from sintonia.training.measured import Measured
from sintonia.training.reporter import Reporter
from sintonia.weights import model_shapes

GB = 10**9
COST = Cost(fixed_bytes=2 * GB, token_bytes=1e6, token_seconds=0.01)
WORK = Work(
    tokens_a_step=3000.0,
    num_steps=100,
    validation_tokens=0.0,
    largest_batch_tokens=4000,
    largest_row_tokens=500,
    learned_part=0.2,
)


@pytest.fixture
def fitting(tmp_path):
    run = RunFolder(tmp_path)
    run.attempt(1).path.mkdir()
    reporter = Reporter(run.attempt(1))
    yield Fitting(Measured(run), reporter)
    reporter.close()


def told(fitting) -> list[str]:
    records, _ = Tail(fitting.reporter.attempt.records).read()
    return [r.data["message"] for r in records if r.kind is RecordKind.EVENT]


def given(planned, **changes):
    return dataclasses.replace(planned, micro_batch_tokens=2048, **changes)


def test_what_fits_is_left_as_it_was_planned(fitting, planned):
    assert fitting.tokens_that_fit(given(planned), WORK, COST, 24 * GB) == 2048
    assert told(fitting) == []


def test_a_smaller_micro_batch_is_taken_where_the_planned_one_does_not_fit(fitting, planned):
    tokens = fitting.tokens_that_fit(given(planned), WORK, COST, 4 * GB)
    assert 500 <= tokens < 2048
    assert COST.bytes_for(tokens) <= 4 * GB < COST.bytes_for(2048)
    assert "so that they fit into 4.0 GB" in told(fitting)[0]


def test_a_micro_batch_that_was_asked_for_is_refused_with_what_would_fit(fitting, planned):
    asked = given(planned, origins={"micro_batch_tokens": Origin.GIVEN})
    with pytest.raises(TrainerFailed, match=r"At most 1,076 would fit") as caught:
        fitting.tokens_that_fit(asked, WORK, COST, 4 * GB)
    assert caught.value.code == REFUSED


def test_a_row_that_is_too_long_for_the_machine_is_refused_with_the_length_that_fits(
    fitting, planned
):
    work = dataclasses.replace(WORK, largest_row_tokens=9000)
    with pytest.raises(TrainerFailed, match=r"Rows of at most 1,076 tokens would fit"):
        fitting.tokens_that_fit(given(planned), work, COST, 4 * GB)


def test_a_model_that_leaves_no_room_is_refused(fitting, planned):
    with pytest.raises(TrainerFailed, match="Choose a smaller base model"):
        fitting.tokens_that_fit(given(planned), WORK, COST, 2 * GB)


def test_a_base_larger_than_the_machine_is_refused_before_it_is_loaded(
    fitting, planned, monkeypatch
):
    monkeypatch.setattr(memory, "limit_bytes", lambda: 1000)
    with pytest.raises(TrainerFailed, match="Base model tiny alone needs"):
        fitting.check_weights(planned, "cpu")


def test_time_is_told_in_words():
    assert COST.seconds_for(WORK) == pytest.approx(3000)
    assert [in_words(seconds) for seconds in (0.2, 40, 180, 9000)] == [
        "1 second",
        "40 seconds",
        "3 minutes",
        "2.5 hours",
    ]


def test_this_machine_tells_its_memory():
    assert memory.used_bytes() < memory.limit_bytes()
    before = memory.peak_bytes()
    block = bytearray(64 * 2**20)
    assert memory.peak_bytes() >= before + len(block) // 2 or before > memory.used_bytes()


def attempt_with_diary(tmp_path, **changes):
    attempt = RunFolder(tmp_path).attempt(1)
    attempt.path.mkdir(exist_ok=True)
    kills = memory.num_kills() or 0
    diary = {"num_kills": kills, "peak_bytes": 10, "limit_bytes": 100}
    write_json(attempt.path / "memory.json", {**diary, **changes})
    return attempt


def test_an_attempt_that_vanished_while_the_kernel_ended_something_ran_out_of_memory(tmp_path):
    if memory.num_kills() is None:
        pytest.skip("this system does not count what it ends for want of memory")
    assert not memory.ran_out(attempt_with_diary(tmp_path))
    assert memory.ran_out(attempt_with_diary(tmp_path, num_kills=memory.num_kills() - 1))


def test_an_attempt_that_vanished_near_its_limit_ran_out_of_memory(tmp_path):
    assert memory.ran_out(attempt_with_diary(tmp_path, peak_bytes=99))


def test_an_attempt_that_said_how_it_ended_is_believed(tmp_path):
    attempt = attempt_with_diary(tmp_path, peak_bytes=99)
    write_exit(attempt, ExitRecord(ExitStatus.STOPPED))
    assert not memory.ran_out(attempt)
    write_exit(attempt, ExitRecord(ExitStatus.FAILED, memory.OUT_OF_MEMORY, "x", True))
    assert memory.ran_out(attempt)


def test_no_attempt_before_is_no_attempt_that_ran_out(tmp_path):
    assert not memory.ran_out(RunFolder(tmp_path).attempt(0))


def test_a_measured_value_is_written_once_and_read_from_then_on(tmp_path):
    run = RunFolder(tmp_path)
    assert Measured(run).fixed("threads", lambda: 3) == 3
    assert Measured(run).fixed("threads", lambda: 5) == 3
    Measured(run).change("micro_batch_tokens", 512)
    assert read_json(run.measured) == {"threads": 3, "micro_batch_tokens": 512}


def test_a_base_in_four_bits_is_counted_as_smaller_but_for_what_stays_wide(planned):
    wide = weight_bytes(planned)
    narrow = weight_bytes(dataclasses.replace(planned, quantization=Quantization.NF4))
    shapes = model_shapes(Path(planned.base.folder))
    assert wide == 4 * sum(math.prod(shape) for shape in shapes.values())
    kept = sum(math.prod(s) for n, s in shapes.items() if "embed" in n or "head" in n)
    kept += sum(math.prod(s) for n, s in shapes.items() if "norm" in n or "down_proj" in n)
    rounded = wide // 4 - kept
    assert narrow == int(4 * kept + rounded * BYTES_PER_WEIGHT)
