"""The command line's settings become the ``sintonia`` object of the API."""

from __future__ import annotations

import json
import re

import pytest

from sintonia.cli import choices
from sintonia.domain.choices import read_extension
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidValue


def test_names_and_files_make_one_object_and_options_win(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"lora": {"rank": 4, "dropout": 0.1}, "learn": "last"}))
    given = [str(file), "lora.alpha=8", "schedule.name=cosine", "early_stopping=false"]
    made = choices.extension(given, {"lora.rank": 32, "learn": None, "truncate": True})
    assert made == {
        "lora": {"rank": 32, "dropout": 0.1, "alpha": 8},
        "learn": "last",
        "schedule": {"name": "cosine"},
        "early_stopping": False,
        "truncate": True,
    }
    assert read_extension(made)[0].lora.rank == 32


def test_lists_and_words_are_read_as_json_or_taken_as_words():
    made = choices.extension(['lora.targets=["q_proj","v_proj"]', "precision=bfloat16"], {})
    assert made == {"lora": {"targets": ["q_proj", "v_proj"]}, "precision": "bfloat16"}


def test_nothing_given_is_an_empty_object():
    assert choices.extension(None, {"lora.rank": None}) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("missing.json", "neither NAME=VALUE nor a file"),
        ("lora.rank", "neither NAME=VALUE nor a file"),
    ],
)
def test_what_is_no_setting_is_refused(given, words):
    with pytest.raises(InvalidValue, match=words):
        choices.extension([given], {})


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[1]", "one JSON object")])
def test_a_file_that_holds_no_object_is_refused(text, words, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(InvalidValue, match=words):
        choices.extension([str(file)], {})


def test_a_name_inside_a_value_is_refused():
    with pytest.raises(InvalidValue, match="lora has the value 8 already"):
        choices.extension(["lora=8", "lora.rank=4"], {})


@pytest.mark.parametrize(
    ("made", "hyperparameters", "name"),
    [
        ({"lora": {"r": 8}}, {}, r"lora\.r"),
        ({"optimizer": {"name": "sgd"}}, {}, r"optimizer\.learning_rate"),
        ({"optimizer": {"learning_rate": 1}}, {"learning_rate_multiplier": 2.0}, "optimizer"),
        ({"early_stopping": {}}, {}, "early_stopping"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_anything_else(made, hyperparameters, name):
    (found,) = choices.problems_of(
        made, MethodType.SUPERVISED, hyperparameters, has_validation=False
    )
    assert re.match(f"Setting {name}", found.message)


def test_what_the_server_takes_passes():
    made = {"lora": {"rank": 8}, "truncate": True, "early_stopping": {"patience": 1}}
    asked = (made, MethodType.SUPERVISED, {"n_epochs": 3})
    assert choices.problems_of(*asked, has_validation=True) == []
