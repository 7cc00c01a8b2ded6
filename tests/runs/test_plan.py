from __future__ import annotations

import dataclasses
import json

import pytest

from sintonia.domain.choices import extension_of
from sintonia.domain.methods import Hyperparameters, Method, MethodType
from sintonia.domain.models import BaseRef
from sintonia.errors import InvalidValue
from sintonia.runs.plan import BaseNumbers, PlanRequest, auto_batch_size, auto_epochs, plan
from sintonia.runs.shown import resolved_of
from sintonia.runs.spec import (
    AdapterRef,
    DataRef,
    DpoSettings,
    EarlyStopping,
    LoraSettings,
    OptimizerSettings,
    Origin,
    ScheduleSettings,
    SftSettings,
    read_spec,
)

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
    assert spec.origins["optimizer.learning_rate"] is Origin.DERIVED
    assert plan(request(160)).origins["optimizer.learning_rate"] is Origin.INHERITED
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


def chosen(rows: int = 160, *, validation: bool = False, **choices) -> PlanRequest:
    asked = request(rows, validation)
    method = dataclasses.replace(asked.method, choices=extension_of(choices).choices)
    return dataclasses.replace(asked, method=method)


PARENT = AdapterRef("ft:tiny:personal::abcdefgh", "/parent", "a" * 64)
PARENT_LORA = LoraSettings(rank=4, alpha=4, targets=("q_proj",), use_rslora=True)


def continued(**choices) -> PlanRequest:
    return dataclasses.replace(chosen(**choices), parent=PARENT, parent_lora=PARENT_LORA)


def test_a_plan_without_choices_is_the_usual_one():
    spec = plan(request(160))
    assert spec.lora == LoraSettings(16, 32.0, ("q_proj", "up_proj"))
    assert spec.optimizer == OptimizerSettings.usual(1e-3)
    assert (spec.schedule.name, spec.schedule.warmup_steps) == ("linear", 4)
    assert spec.sft == SftSettings()
    assert spec.early_stopping is None
    given = {name for name, origin in spec.origins.items() if origin is Origin.GIVEN}
    assert not given


def test_every_choice_reaches_the_plan_as_given():
    spec = plan(
        chosen(
            validation=True,
            lora={
                "rank": 8,
                "alpha": 4,
                "dropout": 0.1,
                "targets": ["up_proj", "q_proj"],
                "rslora": True,
                "init": "gaussian",
            },
            optimizer={
                "name": "muon",
                "learning_rate": 0.02,
                "beta1": 0.7,
                "beta2": 0.8,
                "epsilon": 1e-6,
                "momentum": 0.9,
                "weight_decay": 0.1,
                "max_gradient_norm": 0,
            },
            schedule={"name": "wsd", "warmup_ratio": 0.1, "decay_ratio": 0.5, "floor": 0.2},
            label_smoothing=0.1,
            z_loss=1e-4,
            learn="last",
            micro_batch_tokens=512,
            gradient_checkpointing=True,
            precision="bfloat16",
            quantization="nf4",
            compile=False,
            early_stopping={"patience": 5, "min_delta": 0.01},
        )
    )
    targets = ("q_proj", "up_proj")
    assert spec.lora == LoraSettings(8, 4.0, targets, 0.1, use_rslora=True, init="gaussian")
    assert spec.optimizer == OptimizerSettings(0.02, "muon", 0.7, 0.8, 1e-6, 0.9, 0.1, 0.0)
    assert spec.schedule == ScheduleSettings(6, "wsd", decay_steps=30, floor=0.2)
    assert spec.sft == SftSettings(learns_last_only=True, label_smoothing=0.1, z_loss=1e-4)
    assert (spec.micro_batch_tokens, spec.gradient_checkpointing) == (512, True)
    assert spec.precision == "bfloat16"
    assert (spec.quantization, spec.compile) == ("nf4", False)
    assert spec.early_stopping == EarlyStopping(5, 0.01)
    not_given = {name for name, origin in spec.origins.items() if origin is not Origin.GIVEN}
    assert not_given == {
        "n_epochs",
        "batch_size",
        "learning_rate_multiplier",
        "context_tokens",
        "schedule.decay_steps",
        "tuning",
    }


def test_a_given_rate_is_told_as_the_multiplier_that_it_amounts_to():
    spec = plan(chosen(optimizer={"learning_rate": 3e-3}))
    assert spec.learning_rate_multiplier == pytest.approx(3.0)
    assert spec.origins["learning_rate_multiplier"] is Origin.DERIVED
    assert spec.origins["optimizer.learning_rate"] is Origin.GIVEN


@pytest.mark.parametrize(
    ("choices", "rate"),
    [
        ({"optimizer": {"name": "lion"}}, 1e-4),
        ({"optimizer": {"name": "muon"}}, 1e-3),
        ({"tuning": "full"}, 1e-4),
        ({"tuning": "full", "optimizer": {"name": "lion"}}, 1e-5),
    ],
)
def test_the_base_models_rate_is_fitted_to_what_learns(choices, rate):
    spec = plan(chosen(**choices))
    assert spec.optimizer.learning_rate == pytest.approx(rate)
    is_scaled = rate != 1e-3
    expected = Origin.DERIVED if is_scaled else Origin.INHERITED
    assert spec.origins["optimizer.learning_rate"] is expected


def test_alpha_follows_a_given_rank():
    spec = plan(chosen(lora={"rank": 64}))
    assert spec.lora.alpha == 128
    assert spec.origins["lora.alpha"] is Origin.DERIVED
    assert spec.origins["lora.rank"] is Origin.GIVEN


def test_full_tuning_has_no_adapter():
    spec = plan(chosen(tuning="full"))
    assert spec.lora is None
    assert not [name for name in spec.origins if name.startswith("lora.")]


@pytest.mark.parametrize(
    ("asked", "epochs", "stops"),
    [(None, "auto", True), ("auto", "auto", True), (None, 3, False), (False, "auto", False)],
)
def test_early_stopping_is_on_where_epochs_are_automatic(asked, epochs, stops):
    planned = chosen(validation=True, early_stopping=asked)
    method = dataclasses.replace(planned.method, hyperparameters=Hyperparameters(epochs))
    spec = plan(dataclasses.replace(planned, method=method))
    assert spec.early_stopping == (EarlyStopping() if stops else None)
    without = plan(dataclasses.replace(planned, method=method, validation=None))
    assert without.early_stopping is None


def test_a_continued_run_may_change_what_is_not_the_adapters_shape():
    same = {"rank": 4, "alpha": 4, "targets": ["q_proj"], "rslora": True, "dropout": 0.1}
    spec = plan(continued(lora=same, optimizer={"name": "lion"}))
    assert spec.lora == dataclasses.replace(PARENT_LORA, dropout=0.1)
    assert spec.optimizer.name == "lion"
    assert spec.origins["lora.rank"] is Origin.GIVEN
    assert plan(continued()).origins["tuning"] is Origin.INHERITED


def test_a_continued_run_refuses_another_shape_by_name_and_all_at_once():
    other = {"alpha": 8, "targets": ["up_proj"], "rslora": False, "init": "pissa"}
    with pytest.raises(InvalidValue, match="keeps") as refused:
        plan(continued(lora=other))
    assert refused.value.param == "sintonia.lora.alpha"
    for name in other:
        assert f"Setting lora.{name} " in refused.value.message


def test_full_tuning_may_go_on_from_an_adapter_and_an_adapter_from_a_whole_model():
    assert plan(continued(tuning="full")).lora is None
    whole = dataclasses.replace(chosen(), parent=PARENT)
    assert plan(whole).lora is None
    assert plan(whole).origins["tuning"] is Origin.INHERITED
    adapted = dataclasses.replace(chosen(tuning="lora", lora={"rank": 2}), parent=PARENT)
    assert plan(adapted).lora.rank == 2
    unclear = dataclasses.replace(chosen(lora={"rank": 2}), parent=PARENT)
    with pytest.raises(InvalidValue, match="set tuning to 'lora'"):
        plan(unclear)


def test_four_bits_do_not_go_with_full_tuning_that_is_inherited():
    whole = dataclasses.replace(chosen(quantization="nf4"), parent=PARENT)
    with pytest.raises(InvalidValue, match="set tuning to 'lora'") as refused:
        plan(whole)
    assert refused.value.param == "sintonia.quantization"
    again = dataclasses.replace(chosen(quantization="nf4", tuning="lora"), parent=PARENT)
    assert plan(again).quantization == "nf4"
    assert plan(again).origins["quantization"] is Origin.GIVEN
    assert plan(chosen()).origins["quantization"] is Origin.DEFAULT


def test_preferences_have_settings_of_their_own():
    asked = chosen(label_smoothing=0.1)
    method = Method(MethodType.DPO, Hyperparameters(beta=0.3), asked.method.choices)
    spec = plan(dataclasses.replace(asked, method=method))
    assert (spec.objective, spec.dpo) == ("dpo", DpoSettings(0.3, 0.1))
    assert spec.origins["beta"] is Origin.GIVEN
    assert "z_loss" not in spec.origins


@pytest.mark.parametrize("kind", ["usual", "full", "wsd", "sgd", "dpo", "stopping"])
def test_each_value_that_a_job_shows_has_an_origin(kind):
    asked = {
        "usual": request(160),
        "full": chosen(tuning="full"),
        "wsd": chosen(schedule={"name": "wsd"}),
        "sgd": chosen(optimizer={"name": "sgd", "learning_rate": 1}),
        "dpo": dataclasses.replace(request(160), method=Method(MethodType.DPO)),
        "stopping": request(160, validation=True),
    }[kind]
    spec = plan(asked)
    shown = resolved_of(spec)
    settings = shown.pop("settings")
    names = set(shown)
    for name, value in settings.items():
        names |= {f"{name}.{part}" for part in value} if isinstance(value, dict) else {name}
    untold = {"context_tokens", "early_stopping"}
    assert names - untold == set(spec.origins) - untold
    assert "early_stopping" in spec.origins
    assert json.loads(json.dumps(settings)) == settings


def test_choices_are_refused_by_name_and_all_at_once():
    with pytest.raises(InvalidValue) as refused:
        extension_of({"lora": {"rank": 0, "r": 3}, "learn": "first"})
    assert refused.value.param == "lora.rank"
    for name in ("lora.rank", "lora.r ", "learn"):
        assert f"Setting {name}" in refused.value.message


def test_preferences_are_learned_at_a_tenth_of_the_rate():
    asked = request(160, learning_rate_multiplier=2.0, beta=0.3)
    method = dataclasses.replace(asked.method, type=MethodType.DPO)
    spec = plan(dataclasses.replace(asked, method=method))
    assert (spec.objective, spec.dpo) == ("dpo", DpoSettings(beta=0.3))
    assert spec.learning_rate_multiplier == 2.0
    assert spec.optimizer.learning_rate == pytest.approx(2e-4)
    assert spec.origins["optimizer.learning_rate"] is Origin.DERIVED
    assert spec.origins["beta"] is Origin.GIVEN


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(InvalidValue, match="warmup_steps 500: this run has 60 steps"):
        plan(chosen(schedule={"warmup_steps": 500}))


def test_four_bits_with_full_tuning_are_told_with_all_else_that_is_wrong():
    asked = chosen(tuning="full", quantization="nf4", schedule={"name": "constant", "floor": 0.1})
    with pytest.raises(InvalidValue) as refused:
        plan(dataclasses.replace(asked, seed=-1))
    for what in ("Seed -1", "full tuning trains the weights themselves", "schedule.floor"):
        assert what in refused.value.message
    assert "goes on from" not in refused.value.message


def test_a_continued_run_with_four_bits_tells_its_other_problems_too():
    whole = dataclasses.replace(chosen(quantization="nf4"), parent=PARENT, seed=-1)
    with pytest.raises(InvalidValue, match=r"Seed -1.*set tuning to 'lora'"):
        plan(whole)


def test_an_unknown_setting_is_named_whatever_it_begins_with():
    with pytest.raises(InvalidValue, match="Setting ~rank 1") as refused:
        extension_of({"~rank": 1, "lora": {"~r": 2}, "early_stopping": {"~p": 3}})
    for name in ("lora.~r", "early_stopping.~p"):
        assert f"Setting {name} " in refused.value.message
