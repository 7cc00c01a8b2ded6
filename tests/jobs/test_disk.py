"""What a home's disk holds and what can go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from worker_kit import submit

from sintonia.domain.batches import BatchDraft
from sintonia.domain.files import FilePurpose
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.jobs.disk import ItemKind, remove, survey


@pytest.fixture
def jobs(store, given):
    """A job that is over and one that is not, with run and tuned folders; a stray file of each."""
    over, waiting = submit(store), submit(store)
    store.jobs.cancel(over.id)
    tuned = given.home / "models" / "tuned"
    for job in (over, waiting):
        for folder in (given.home / "runs" / job.id, tuned / job.id):
            folder.mkdir()
            (folder / "big").write_bytes(b"x" * 1000)
    (given.home / "runs" / "ftjob-unknown").mkdir()
    (tuned / "ftjob-kept").mkdir()
    base = BaseRef("tiny", "/tiny", "00")
    kept = str(tuned / "ftjob-kept")
    store.models.add(Model("ft:kept", ModelKind.TUNED, 1, "personal", base, kept, "11"))
    (given.home / "cache" / "samples").mkdir()
    downloads = given.home / "downloads"
    downloads.mkdir(exist_ok=True)
    for name in ("old.work", "new.work"):
        (downloads / name).write_bytes(b"x")
    staged = store.files.stage("left.csv", FilePurpose.FINE_TUNE, [b"x"])
    for path in (downloads / "old.work", given.home / "files" / staged.id):
        os.utime(path, (1, 1))
    return over, waiting, staged


def test_only_what_nothing_needs_can_go(store, given, jobs):
    over, waiting, staged = jobs
    items = survey(given, store)
    removable = {(item.kind, item.name) for item in items if item.can_go}
    assert removable == {
        (ItemKind.RUN, over.id),
        (ItemKind.RUN, "ftjob-unknown"),
        (ItemKind.TUNED, over.id),
        (ItemKind.DOWNLOAD, "old.work"),
        (ItemKind.ORPHAN, staged.id),
    }
    stays = {(item.kind, item.name) for item in items if not item.can_go}
    assert {
        (ItemKind.RUN, waiting.id),
        (ItemKind.TUNED, waiting.id),
        (ItemKind.TUNED, "ftjob-kept"),
        (ItemKind.BASE, "tiny"),
        (ItemKind.CACHE, "samples"),
        (ItemKind.DOWNLOAD, "new.work"),
    } <= stays
    assert all(item.why for item in items)
    (run,) = [item for item in items if (item.kind, item.name) == (ItemKind.RUN, over.id)]
    assert run.size_bytes == 1000


def test_a_base_that_nothing_needs_says_how_it_can_go(store, given, jobs):
    def why() -> str:
        return next(item.why for item in survey(given, store) if item.kind is ItemKind.BASE)

    store.jobs.cancel(jobs[1].id)
    assert why() == "a tuned model or a job needs it"
    store.models.delete("ft:kept")
    assert "`sintonia models delete tiny`" in why()


def test_the_survey_shows_all_that_a_server_writes(store, given, jobs):
    (given.home / "uploads" / "arriving").mkdir(parents=True)
    (given.home / "uploads" / "arriving" / "part").write_bytes(b"x" * 10)
    (given.home / "logs" / "api.log").write_bytes(b"x" * 20)
    young = store.files.stage("new.csv", FilePurpose.FINE_TUNE, [b"x"])
    found = {(item.kind, item.name): item for item in survey(given, store)}
    assert found[ItemKind.UPLOAD, "arriving"].size_bytes == 10
    assert found[ItemKind.LOG, "api.log"].size_bytes == 20
    assert found[ItemKind.DATABASE, "sintonia.db"].size_bytes > 0
    assert (ItemKind.DATABASE, "sintonia.db-wal") in found
    kept = (ItemKind.UPLOAD, ItemKind.LOG, ItemKind.DATABASE)
    assert not any(item.can_go for (kind, _), item in found.items() if kind in kept)
    assert not found[ItemKind.ORPHAN, young.id].can_go, "its row may be about to be written"


def test_removing_takes_what_can_go_and_nothing_else(store, given, jobs):
    over, waiting, staged = jobs
    items = survey(given, store)
    assert remove(items) >= 2001
    assert not (given.home / "runs" / over.id).exists()
    assert not (given.home / "files" / staged.id).exists()
    assert (given.home / "runs" / waiting.id / "big").exists()
    assert (given.home / "models" / "base" / "tiny" / "config.json").exists()
    assert not any(item.can_go for item in survey(given, store))
    assert remove(items) == 0, "what has gone already frees nothing"
    assert all(Path(given.home / "files" / f.id).exists() for f in store.files.list().items)


def test_caches_can_go_when_no_job_needs_them(store, given, jobs):
    store.jobs.cancel(jobs[1].id)
    (cache,) = [item for item in survey(given, store) if item.kind is ItemKind.CACHE]
    assert cache.can_go


def test_work_of_a_batch_can_go_only_when_the_batch_is_over(store, given):
    batch = store.batches.create(BatchDraft("file-x", "/v1/completions"))
    for name in (batch.id, "batch_over"):
        (given.home / "batches" / name).mkdir()
    items = [item for item in survey(given, store) if item.kind is ItemKind.BATCH]
    assert {item.name: item.can_go for item in items} == {batch.id: False, "batch_over": True}
