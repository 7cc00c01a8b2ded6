"""A model whose every weight was tuned is a base of its own, for jobs, chat and the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from worker_kit import submit

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.errors import RefusedModel
from sintonia.jobs.disk import ItemKind, survey
from sintonia.jobs.prepare import prepare_job
from sintonia.runs.spec import Origin, read_spec
from sintonia.sealed import hash_file, seal, write_json
from sintonia.serving.router import Router
from sintonia.store import Stage

NAME = "ft:tiny:personal::abcdefgh"


@pytest.fixture
def whole(store, given) -> Model:
    """A registered whole model: the base's files with another card."""
    base, work = given.home / "models" / "base" / "tiny", given.home / "whole.work"
    shutil.copytree(base, work)
    (work / "manifest.json").unlink()
    library = Library(given.home, catalog.load())
    template = Router(store, library, library.catalog).route("tiny").renderer.template_sha256
    write_json(work / "model_card.json", {"template_sha256": template})
    folder = given.home / "models" / "tuned" / "ftjob-whole"
    folder.parent.mkdir(parents=True, exist_ok=True)
    ref = BaseRef("tiny", str(folder), seal(work, folder))
    model = Model(NAME, ModelKind.TUNED, 1, "personal", ref, str(folder))
    store.models.add(model)
    return model


def prepare(context, store):
    job = submit(store, parent_model=NAME, model=NAME)
    prepare_job(context, store.queue.claim(Stage.PREPARING, "w", 30))
    return job


def test_a_job_goes_on_from_a_whole_model_as_its_base(context, store, given, whole):
    job = prepare(context, store)
    spec = read_spec(given.home / "runs" / job.id / "spec.json")
    assert spec.base == whole.base
    assert spec.lora is None
    assert spec.origins["tuning"] is Origin.INHERITED
    assert spec.parent.model == NAME
    assert spec.parent.sha256 == spec.base.sha256


def test_a_whole_model_whose_weights_are_gone_is_named(context, store, given, whole):
    shutil.rmtree(whole.folder)
    error = store.jobs.get(prepare(context, store).id).error
    assert NAME in error.message
    assert error.param == "model"
    library = Library(given.home, catalog.load())
    with pytest.raises(RefusedModel, match="weights are missing"):
        Router(store, library, library.catalog).route(NAME)


def test_a_whole_model_is_served_without_its_base(store, given, whole):
    shutil.rmtree(given.home / "models" / "base" / "tiny")
    library = Library(given.home, catalog.load())
    ref = Router(store, library, library.catalog).route(NAME).ref
    assert (ref.base_folder, ref.base_sha256) == (whole.folder, whole.base.sha256)
    assert ref.adapter_folder is None


def test_a_deleted_whole_model_stays_on_disk_while_something_needs_it(context, store, given, whole):
    def can_go() -> bool:
        folder = str(Path(whole.folder))
        return next(
            item.can_go
            for item in survey(given, store)
            if item.kind is ItemKind.TUNED and item.path == folder
        )

    job = prepare(context, store)
    store.models.delete(NAME)
    assert not can_go(), "a job trains over it"
    store.jobs.cancel(job.id)
    assert can_go()
    adapter = given.home / "models" / "tuned" / "ftjob-adapter"
    adapter.mkdir()
    over = Model("ft:x", ModelKind.TUNED, 1, "personal", whole.base, str(adapter), "11")
    store.models.add(over)
    assert not can_go(), "an adapter is served over it"
    assert hash_file(Path(whole.folder) / "manifest.json") == whole.base.sha256
