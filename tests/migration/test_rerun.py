"""What is asked for when a job is trained again."""

from __future__ import annotations

import pytest

from sintonia.errors import InvalidValue
from sintonia.migration.rerun import Wishes, rerun_request

NUMBERS = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 1.8}
JOB = {
    "id": "ftjob-x",
    "model": "gpt-4o-mini-2024-07-18",
    "training_file": "file-a",
    "validation_file": None,
    "method": {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}},
    "hyperparameters": NUMBERS,
    "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme:my-suffix:abcdefgh",
    "seed": 7,
    "metadata": {"team": "a"},
}

AS_IT_WAS = Wishes()


def chosen(job, wishes=AS_IT_WAS, method="supervised"):
    return rerun_request(job, wishes)["method"][method]["hyperparameters"]


def test_a_job_of_openais_is_asked_for_again_as_it_is_shown():
    assert rerun_request(JOB, Wishes()) == {
        "model": "gpt-4o-mini-2024-07-18",
        "training_file": "file-a",
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 3, "learning_rate_multiplier": 1.8}},
        },
        "suffix": "my-suffix",
        "seed": 7,
        "metadata": {"team": "a", "rerun_of": "ftjob-x"},
    }
    assert rerun_request(JOB, Wishes(model="mine"))["model"] == "mine"
    assert chosen(JOB, Wishes(auto=True)) == {}


def test_of_a_server_of_ours_only_what_was_given_is_asked_for_again():
    origins = {"n_epochs": "given", "learning_rate_multiplier": "derived"}
    extension = {"origins": origins, "asked": {"lora": {"rank": 4}}, "truncate": True}
    job = {**JOB, "sintonia": extension}
    assert chosen(job) == {"n_epochs": 3}
    assert chosen(job, Wishes(resolved=True)) == {"n_epochs": 3, "learning_rate_multiplier": 1.8}
    assert rerun_request(job, Wishes())["sintonia"] == {"lora": {"rank": 4}, "truncate": True}


def test_preferences_keep_their_beta():
    dpo = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": "auto"}}}
    assert chosen({**JOB, "method": dpo, "hyperparameters": None}, method="dpo") == {"beta": 0.1}


def test_a_job_from_before_there_were_methods_is_supervised():
    old = {**JOB, "method": None}
    assert chosen(old) == {"n_epochs": 3, "learning_rate_multiplier": 1.8}


def test_a_method_that_is_not_built_is_refused_in_words():
    with pytest.raises(InvalidValue, match=r"its method is 'reinforcement'.*settings are kept"):
        rerun_request({**JOB, "method": {"type": "reinforcement"}}, Wishes())
