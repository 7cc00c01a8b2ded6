from __future__ import annotations

import pytest

from sintonia import settings
from sintonia.errors import SettingInvalid


def test_each_value_remembers_where_it_came_from(tmp_path):
    (tmp_path / "sintonia.toml").write_text("port = 9001\ntrainers = 2\n[aliases]\ngpt-9 = 'x'\n")
    environment = {"SINTONIA_HOME": str(tmp_path), "SINTONIA_PORT": "9002"}
    loaded = settings.load(environment, host="localhost")
    assert (loaded.port, loaded.trainers, loaded.host) == (9002, 2, "localhost")
    assert loaded.aliases == {"gpt-9": "x"}
    origins = {
        name: loaded.origins[name] for name in ("home", "port", "trainers", "host", "engine")
    }
    assert origins == {
        "home": "environment",
        "port": "environment",
        "trainers": "file",
        "host": "given",
        "engine": "default",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 'many'", "port"),
        ("port = 70000", "between 0 and 65535"),
        ("port = ", "cannot be read"),
        ("trainers = 0", "at least 1"),
        ("[aliases]\na = 3", "must be a model's name"),
        ("aliases = 5", "must be a model's name"),
        ("threads = -1", "threads"),
        ("engine_slots = 0", "engine_slots"),
        ("lease_seconds = nan", "lease_seconds"),
        ("port = true", "port"),
        ("organization = 'a:b'", "organization"),
        ("result_files = 'zip'", "must be one of plain, base64"),
    ],
)
def test_a_setting_that_cannot_be_understood_is_named(tmp_path, text, message):
    (tmp_path / "sintonia.toml").write_text(text)
    with pytest.raises(SettingInvalid, match=message):
        settings.load({"SINTONIA_HOME": str(tmp_path)})


def test_a_wrong_environment_variable_is_named():
    with pytest.raises(SettingInvalid, match="SINTONIA_TRAINERS"):
        settings.load({"SINTONIA_TRAINERS": "two"})


def test_the_home_decides_where_database_and_files_are(tmp_path):
    loaded = settings.load({}, home=tmp_path)
    assert loaded.database == f"sqlite:///{tmp_path}/sintonia.db"
    assert loaded.files == f"file://{tmp_path}/files"
