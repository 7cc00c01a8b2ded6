from __future__ import annotations

import dataclasses

import pytest

from sintonia.domain.methods import Hyperparameters, Method
from sintonia.domain.models import BaseRef
from sintonia.errors import InvalidValue
from sintonia.runs.plan import BaseNumbers, PlanRequest, auto_batch_size, auto_epochs, plan
from sintonia.runs.spec import AdapterRef, DataRef, LoraSettings, Origin, read_spec

BASE = BaseNumbers(BaseRef("tiny", "/base", "b" * 64), 1e-3, 512, "t" * 64, ("q_proj", "up_proj"))


def request(rows: int, validation: bool = False, **hyperparameters) -> PlanRequest:
    data = DataRef("train.jsonl", "d" * 64, rows)
    return PlanRequest(
        run_id="ftjob-1",
        method=Method(hyperparameters=Hyperparameters(**hyperparameters)),
        base=BASE,
        training=data,
        validation=data if validation else None,
        seed=7,
    )


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(10, 10), (5, 20), (4, 25), (33, 3), (34, 3), (101, 3), (948, 3), (10_000, 2), (90_000, 1)],
)
def test_epochs_follow_openais_published_rule(rows, epochs):
    assert auto_epochs(rows) == epochs


@pytest.mark.parametrize(
    ("rows", "batch"), [(10, 1), (40, 4), (79, 7), (80, 8), (4000, 8), (10_000, 20), (999_999, 256)]
)
def test_batches_feed_the_machine_and_leave_steps_in_an_epoch(rows, batch):
    assert auto_batch_size(rows) == batch


def test_a_plan_leaves_nothing_open_and_says_where_each_value_is_from():
    spec = plan(request(160, n_epochs=4, learning_rate_multiplier=2.0))
    assert (spec.n_epochs, spec.batch_size, spec.total_steps) == (4, 8, 80)
    assert spec.optimizer.learning_rate == pytest.approx(2e-3)
    assert spec.lora.targets == ("q_proj", "up_proj")
    assert spec.origins["n_epochs"] is Origin.GIVEN
    assert spec.origins["batch_size"] is Origin.DERIVED
    assert spec.origins["learning_rate_multiplier"] is Origin.GIVEN
    assert spec.origins["optimizer.learning_rate"] is Origin.INHERITED
    values = dataclasses.asdict(spec)
    assert "auto" not in values.values()


def test_validation_is_planned_only_when_there_is_a_file():
    assert plan(request(160)).validate_every_steps == 0
    assert plan(request(160, validation=True)).validate_every_steps == 3


def test_a_continued_run_keeps_its_parents_adapter_shape():
    lora = LoraSettings(rank=4, alpha=4, targets=("q_proj",))
    parent = AdapterRef("ft:tiny:personal::abcdefgh", "/parent", "a" * 64)
    spec = plan(dataclasses.replace(request(20), parent=parent, parent_lora=lora))
    assert spec.lora == lora
    assert spec.origins["lora.rank"] is Origin.INHERITED


def test_a_spec_is_the_same_after_a_round_trip_through_its_file(tmp_path):
    spec = plan(request(160, validation=True))
    spec.write(tmp_path / "spec.json")
    assert read_spec(tmp_path / "spec.json") == spec


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "7"])
def test_a_seed_out_of_range_is_refused_in_words(seed):
    with pytest.raises(InvalidValue, match="integer from 0 to 4294967295") as refused:
        plan(dataclasses.replace(request(100), seed=seed))
    assert refused.value.param == "seed"
    assert plan(dataclasses.replace(request(100), seed=2**32 - 1)).seed == 2**32 - 1
