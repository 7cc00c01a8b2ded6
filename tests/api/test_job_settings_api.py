"""The ``sintonia`` object of a job over HTTP: what it takes, what it refuses, what it shows."""

from __future__ import annotations

import dataclasses

import pytest
from api_calls import error_of, upload

from sintonia.domain.choices import (
    Choices,
    LoraChoices,
    OptimizerChoices,
    OptimizerName,
    ScheduleChoices,
)

JOBS = "/v1/fine_tuning/jobs"
EVERYTHING = {
    "tuning": "lora",
    "lora": {
        "rank": 8,
        "alpha": 16,
        "dropout": 0.05,
        "targets": ["q_proj", "v_proj"],
        "rslora": True,
        "init": "gaussian",
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": 1e-4,
        "beta1": 0.8,
        "beta2": 0.95,
        "epsilon": 1e-9,
        "weight_decay": 0.01,
        "max_gradient_norm": 0.5,
    },
    "schedule": {"name": "wsd", "warmup_ratio": 0.1, "decay_ratio": 0.3, "floor": 0.1},
    "label_smoothing": 0.1,
    "z_loss": 1e-4,
    "learn": "last",
    "micro_batch_tokens": 4096,
    "gradient_checkpointing": True,
    "precision": "bfloat16",
    "quantization": "nf4",
    "compile": False,
    "early_stopping": {"patience": 3, "min_delta": 0.01},
}


@pytest.fixture
def file_id(client) -> str:
    return upload(client)["id"]


def create(client, file_id, sintonia, **parameters):
    body = {"model": "gpt-tiny", "training_file": file_id, "sintonia": sintonia, **parameters}
    return client.post(JOBS, json=body)


def test_everything_that_is_chosen_is_stored_and_shown(client, file_id):
    job = create(client, file_id, EVERYTHING, validation_file=file_id).json()
    assert job["sintonia"]["settings"] == EVERYTHING
    assert client.get(f"{JOBS}/{job['id']}").json() == job
    assert {f.name for f in dataclasses.fields(Choices)} == set(EVERYTHING), "all are tried here"
    assert {f.name for f in dataclasses.fields(LoraChoices)} == set(EVERYTHING["lora"])


def test_null_means_not_chosen_at_any_depth(client, file_id):
    nulls = dict.fromkeys(EVERYTHING)
    for given in (None, {}, nulls, {**nulls, "lora": dict.fromkeys(EVERYTHING["lora"])}):
        job = create(client, file_id, given).json()
        shown = job["sintonia"]["settings"]
        assert shown in ({}, {"lora": {}})


@pytest.mark.parametrize("name", list(OptimizerName))
def test_every_optimizer_can_be_chosen(client, file_id, name):
    chosen = {"optimizer": {"name": name.value, "learning_rate": 1e-3}}
    assert create(client, file_id, chosen).json()["sintonia"]["settings"] == chosen


@pytest.mark.parametrize("value", ["auto", False, {}, {"patience": 1}])
def test_early_stopping_takes_four_forms(client, file_id, value):
    answer = create(client, file_id, {"early_stopping": value}, validation_file=file_id)
    assert answer.json()["sintonia"]["settings"]["early_stopping"] == value


@pytest.mark.parametrize(
    ("sintonia", "code", "param"),
    [
        ({"lorra": {}}, "unknown_parameter", "lorra"),
        ({"lora": {"r": 8}}, "unknown_parameter", "lora.r"),
        ({"optimizer": {"lr": 1e-3}}, "unknown_parameter", "optimizer.lr"),
        ({"schedule": {"warmup": 3}}, "unknown_parameter", "schedule.warmup"),
        ({"early_stopping": {"wait": 3}}, "unknown_parameter", "early_stopping.wait"),
        ({"lora": 8}, "invalid_type", "lora"),
        ({"lora": {"rank": 0}}, "integer_below_min_value", "lora.rank"),
        ({"lora": {"rank": 2000}}, "integer_above_max_value", "lora.rank"),
        ({"lora": {"rank": 1.5}}, "invalid_type", "lora.rank"),
        ({"lora": {"rank": True}}, "invalid_type", "lora.rank"),
        ({"lora": {"alpha": 0}}, "decimal_below_min_value", "lora.alpha"),
        ({"lora": {"dropout": 1}}, "decimal_above_max_value", "lora.dropout"),
        ({"lora": {"targets": "q_proj"}}, "invalid_type", "lora.targets"),
        ({"lora": {"targets": []}}, "array_below_min_length", "lora.targets"),
        ({"lora": {"targets": [7]}}, "invalid_type", "lora.targets[0]"),
        ({"lora": {"rslora": 1}}, "invalid_type", "lora.rslora"),
        ({"lora": {"init": "zero"}}, "invalid_value", "lora.init"),
        ({"tuning": "half"}, "invalid_value", "tuning"),
        ({"optimizer": {"name": "adam"}}, "invalid_value", "optimizer.name"),
        (
            {"optimizer": {"learning_rate": 0}},
            "decimal_below_min_value",
            "optimizer.learning_rate",
        ),
        ({"schedule": {"name": "step"}}, "invalid_value", "schedule.name"),
        ({"label_smoothing": -0.1}, "decimal_below_min_value", "label_smoothing"),
        ({"learn": "first"}, "invalid_value", "learn"),
        ({"micro_batch_tokens": 1}, "integer_below_min_value", "micro_batch_tokens"),
        ({"precision": "float16"}, "invalid_value", "precision"),
        ({"quantization": "int8"}, "invalid_value", "quantization"),
        ({"compile": 1}, "invalid_type", "compile"),
        ({"early_stopping": True}, "invalid_value", "early_stopping"),
        ({"truncate": "yes"}, "invalid_type", "truncate"),
    ],
)
def test_a_bad_setting_is_400_with_its_name(client, file_id, sintonia, code, param):
    error_of(create(client, file_id, sintonia), 400, code, f"sintonia.{param}")
    assert client.get(JOBS).json()["data"] == []


@pytest.mark.parametrize(
    ("sintonia", "param"),
    [
        ({"tuning": "full", "lora": {"rank": 8}}, "lora.rank"),
        ({"lora": {"rank": 7, "init": "orthogonal"}}, "lora.rank"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.learning_rate"),
        (
            {"optimizer": {"name": "sgd", "learning_rate": 1, "beta1": 0.9}},
            "optimizer.beta1",
        ),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum"),
        ({"optimizer": {"name": "lion", "epsilon": 1e-8}}, "optimizer.epsilon"),
        ({"schedule": {"warmup_steps": 3, "warmup_ratio": 0.1}}, "schedule.warmup_ratio"),
        ({"schedule": {"name": "cosine", "decay_ratio": 0.1}}, "schedule.decay_ratio"),
        ({"schedule": {"name": "constant", "floor": 0.1}}, "schedule.floor"),
        ({"early_stopping": {"patience": 1}}, "early_stopping"),
        ({"tuning": "full", "quantization": "nf4"}, "quantization"),
        ({"lora": {"init": "pissa"}, "quantization": "nf4"}, "lora.init"),
        ({"lora": {"init": "olora"}, "quantization": "nf4"}, "lora.init"),
        ({"compile": True, "gradient_checkpointing": True}, "compile"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(client, file_id, sintonia, param):
    message = error_of(create(client, file_id, sintonia), 400, "invalid_value", f"sintonia.{param}")
    assert f"Setting {param}: " in message


def test_all_that_four_bits_do_not_go_with_is_told_at_once(client, file_id):
    chosen = {"tuning": "full", "lora": {"init": "pissa"}, "quantization": "nf4"}
    message = error_of(create(client, file_id, chosen), 400, "invalid_value", "sintonia.lora.init")
    assert "Setting quantization: full tuning" in message
    assert "Setting lora.init: pissa begins" in message
    unhindered = {"tuning": "full", "quantization": "none"}
    assert create(client, file_id, unhindered).json()["sintonia"]["settings"] == unhindered


def test_the_rate_and_its_multiplier_exclude_each_other(client, file_id):
    chosen = {"optimizer": {"learning_rate": 1e-3}}
    answer = create(client, file_id, chosen, hyperparameters={"learning_rate_multiplier": 2})
    error_of(answer, 400, "invalid_value", "sintonia.optimizer.learning_rate")


def test_settings_that_preferences_do_not_have_are_refused(client, file_id):
    chosen = {"learn": "last", "z_loss": 0.1, "label_smoothing": 0.7}
    answer = create(client, file_id, chosen, method={"type": "dpo"})
    message = error_of(answer, 400, "invalid_value", "sintonia.z_loss")
    assert all(f"Setting {name}: " in message for name in chosen)


def test_all_problems_are_told_at_once(client, file_id):
    chosen = {"lora": {"rank": 0, "init": "zero"}, "learn": "first", "colour": "blue"}
    answer = create(client, file_id, chosen)
    message = error_of(answer, 400, "integer_below_min_value", "sintonia.lora.rank")
    for name in ("lora.rank", "lora.init", "learn", "colour"):
        assert f"sintonia.{name}" in message


def test_settings_the_model_and_both_files_are_refused_at_once(client):
    chosen = {
        "lora": {"rank": 0, "targets": ["q_proj", "w_magic"]},
        "optimizer": {"momentum": 0.5},
        "colour": "blue",
    }
    body = {"model": "gpt-tiny", "training_file": "file-a", "validation_file": "file-b"}
    more = {"hyperparameters": {"n_epochs": 99}, "integrations": [{"type": "wandb"}]}
    answer = client.post(JOBS, json={**body, **more, "sintonia": chosen})
    message = error_of(answer, 400, "integer_above_max_value", "hyperparameters.n_epochs")
    for told in (
        "Invalid 'sintonia.lora.rank'",
        "supplied: sintonia.colour.",
        "Setting optimizer.momentum: adamw has none",
        "Setting lora.targets w_magic: the base model has no such linear layer",
        "Parameter integrations",
        "File 'file-a' does not exist (invalid training_file: file-a)",
        "File 'file-b' does not exist (invalid validation_file: file-b)",
    ):
        assert told in message
    nobody = client.post(JOBS, json={**body, "model": "nobody", "sintonia": {"learn": "x"}})
    message = error_of(nobody, 400, "invalid_value", "sintonia.learn")
    assert "Model nobody is not available" in message


def test_a_layer_that_the_base_model_does_not_have_is_refused_at_once(client, file_id):
    answer = create(client, file_id, {"lora": {"targets": ["w_magic"]}})
    error_of(answer, 400, "invalid_value", "sintonia.lora.targets")


def test_what_was_asked_stays_beside_what_it_became(client, file_id, services):
    job = create(client, file_id, EVERYTHING, validation_file=file_id).json()
    assert job["sintonia"]["asked"] == EVERYTHING


def test_every_name_of_the_object_is_known_to_this_test():
    assert {f.name for f in dataclasses.fields(OptimizerChoices)} == {
        *EVERYTHING["optimizer"],
        "momentum",
    }
    assert {f.name for f in dataclasses.fields(ScheduleChoices)} == {
        *EVERYTHING["schedule"],
        "warmup_steps",
    }
