"""``models pull`` and ``models delete`` on bases of the home, without a server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from sintonia import catalog, cli
from sintonia import settings as settings_module
from sintonia.bases.library import Library
from sintonia.domain.jobs import JobDraft
from sintonia.domain.models import Model, ModelKind
from sintonia.store import Store


@pytest.fixture
def library(home, tiny_folder) -> Library:
    home.mkdir()
    library = Library(home, catalog.load())
    library.add("mine", tiny_folder)
    return library


def test_a_base_that_nothing_needs_is_deleted(library, capfd):
    assert cli.main(["models", "delete", "mine"]) == 0
    assert "Model mine is deleted." in capfd.readouterr().out
    assert library.installed() == []


def test_a_base_that_a_tuned_model_needs_stays(library, capfd):
    base = library.find("mine").ref
    with closing(Store.open(settings_module.load())) as store:
        store.models.add(Model("ft:mine:personal::abcdefgh", ModelKind.TUNED, 1, "user", base))
    assert cli.main(["models", "delete", "mine"]) == 1
    assert "ft:mine:personal::abcdefgh still needs it" in capfd.readouterr().err
    assert library.find("mine") is not None


def test_a_base_that_a_waiting_job_needs_stays(library, tmp_path, capfd):
    with closing(Store.open(settings_module.load())) as store:
        job = store.jobs.create(JobDraft("mine", "mine", "file-abc"))
    assert cli.main(["models", "delete", "mine"]) == 1
    assert f"{job.id} still needs it" in capfd.readouterr().err
    assert library.find("mine") is not None


def test_pulling_a_damaged_added_model_says_to_add_it_again(library, capfd):
    base = library.find("mine")
    (Path(base.ref.folder) / "config.json").write_text("{}")
    assert cli.main(["models", "pull", "mine"]) == 1
    assert "sintonia models add mine FOLDER" in capfd.readouterr().err
