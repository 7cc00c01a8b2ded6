"""What a run needs is told before it starts, and what cannot fit is refused with what would."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import pytest
import torch
from run_kit import pair, row
from transformers import GPT2Config, GPT2LMHeadModel

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, load_samples
from sintonia.errors import TrainerFailed
from sintonia.models.policy import Policy
from sintonia.models.quantized import BYTES_PER_WEIGHT
from sintonia.objectives.dpo import DirectPreference
from sintonia.objectives.sft import Supervised
from sintonia.runs import memory
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import ExitRecord, ExitStatus, RecordKind, Tail, write_exit
from sintonia.runs.spec import Origin, Quantization
from sintonia.sealed import hash_file, read_json, write_json
from sintonia.training.distributed import ALONE
from sintonia.training.estimate import (
    Cost,
    Work,
    largest_row_tokens,
    measure_cost,
    weight_bytes,
    work_of,
)
from sintonia.training.fitting import REFUSED, Fitting, in_words
from sintonia.training.machine import fix_choices
from sintonia.training.measured import Measured
from sintonia.training.reporter import Reporter
from sintonia.weights import model_shapes

GB = 10**9
COST = Cost(fixed_bytes=2 * GB, token_bytes=1e6, token_seconds=0.01)
WORK = Work(
    tokens_a_step=3000.0,
    num_steps=100,
    validation_tokens=0.0,
    largest_share_tokens=4000,
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


@pytest.fixture
def rows(tiny_home, tmp_path):
    """Write rows and return them encoded."""
    base = Library(tiny_home, catalog.load()).find("tiny")
    renderer = Renderer.from_folder(Path(base.ref.folder))

    def encoded(lines):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(lines))
        rules = EncodingRules(renderer.context_tokens, truncate=False)
        return load_samples(path, hash_file(path), renderer, rules, tmp_path / "cache")

    return encoded


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


@pytest.mark.parametrize("context_tokens", [24, 256])
def test_the_probe_keeps_within_a_short_context(rows, context_tokens):
    config = GPT2Config(vocab_size=258, n_embd=16, n_layer=1, n_head=2, n_positions=context_tokens)
    policy = Policy(GPT2LMHeadModel(config))
    cost = measure_cost(policy, rows(map(row, range(4))), 0.5, context_tokens)
    assert cost.token_bytes >= 1
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_the_largest_row_is_what_the_smallest_micro_batch_computes(rows):
    samples = rows(map(pair, range(20)))
    for found in (samples, samples.apart()):
        for objective in (DirectPreference(), Supervised()):
            every = found.sequences_of(range(found.num_rows))
            most = max(forest.num_tokens for forest in objective.batches(every, 1))
            assert largest_row_tokens(objective, found) == most
    apart, shared = (largest_row_tokens(DirectPreference(), s) for s in (samples.apart(), samples))
    assert apart > shared


def test_the_work_of_rows_that_are_apart_counts_what_is_computed(rows, planned):
    samples = rows(map(pair, range(20))).apart()
    spec = dataclasses.replace(planned, objective="dpo", validate_every_steps=0)
    work = work_of(spec, DirectPreference(), samples, samples)
    lengths = sum(len(sequence.tokens) for sequence in samples.sequences_of(range(20)))
    assert work.validation_tokens == spec.n_epochs * lengths
    assert work.largest_validation_tokens == work.largest_row_tokens


def test_a_validation_row_that_may_not_fit_is_told_and_refuses_nothing(
    fitting, planned, rows, monkeypatch
):
    work = dataclasses.replace(WORK, largest_validation_tokens=10**12)
    monkeypatch.setattr(memory, "limit_bytes", lambda: 10**12)
    policy = Policy(GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=16, n_layer=1, n_head=2)))
    fitting.before_the_first_step(given(planned), work, policy, rows(map(row, range(4))))
    assert "The largest row of the validation file" in " ".join(told(fitting))


def test_full_tuning_that_does_not_fit_is_told_to_train_an_adapter(fitting, planned):
    with pytest.raises(TrainerFailed, match="smaller base model or `tuning: lora`"):
        fitting.tokens_that_fit(given(planned, lora=None), WORK, COST, 2 * GB)
    with pytest.raises(TrainerFailed, match="or a lower LoRA rank"):
        fitting.tokens_that_fit(given(planned), WORK, COST, 2 * GB)


def test_checkpointing_that_is_on_is_not_advised(fitting, planned, tmp_path):
    work = dataclasses.replace(WORK, largest_row_tokens=9000)
    on = given(planned, gradient_checkpointing=True)
    with pytest.raises(TrainerFailed, match="tokens would fit") as refused:
        fitting.tokens_that_fit(on, work, COST, 4 * GB)
    assert "gradient_checkpointing" not in refused.value.message
    attempt_with_diary(tmp_path, peak_bytes=99)
    run = RunFolder(tmp_path)
    with pytest.raises(TrainerFailed, match="one row at a time") as refused:
        fitting.after_the_attempt_before(run, run.attempt(2), on, 9000)
    assert "gradient_checkpointing" not in refused.value.message


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux tells")
def test_a_run_takes_the_cores_that_it_is_allowed(fitting, planned):
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    spec = dataclasses.replace(planned, threads=0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        spec = fix_choices(spec, fitting.measured, fitting.reporter, ALONE)
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
    assert spec.threads == 1
