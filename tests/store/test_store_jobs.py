"""Jobs as callers see them."""

from __future__ import annotations

import dataclasses

import pytest

from sintonia.domain.jobs import EventLevel, EventType, JobDraft, JobStatus
from sintonia.domain.methods import Hyperparameters, Method
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.errors import InvalidRequest, InvalidValue, JobNotFound, ModelNotFound
from sintonia.store import Stage
from sintonia.store.claims import Admission

DRAFT = JobDraft(model="tiny", base_model="tiny", training_file="file-a")


def texts(store, job_id):
    return [event.message for event in store.jobs.events(job_id, limit=100).items][::-1]


def test_a_new_job_has_all_of_its_draft_and_its_first_event(store):
    draft = JobDraft(
        model="gpt-4o-mini-2024-07-18",
        base_model="tiny",
        training_file="file-a",
        method=Method(hyperparameters=Hyperparameters(n_epochs=3, learning_rate_multiplier=0.5)),
        parent_model="ft:tiny:personal::abcdefgh",
        validation_file="file-b",
        suffix="mine",
        seed=7,
        metadata={"team": "a", 'odd "key"': "ä"},
    )
    job = store.jobs.create(draft)
    assert job.draft == draft
    assert (job.status, job.seed, job.result_files) == (JobStatus.VALIDATING_FILES, 7, ())
    assert store.jobs.get(job.id) == job
    (event,) = store.jobs.events(job.id).items
    assert (event.message, event.data) == (f"Created fine-tuning job: {job.id}", {})


def test_a_seed_is_drawn_when_none_is_given(store):
    seeds = {store.jobs.create(DRAFT).seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_unknown_jobs_are_not_found(store):
    uses = (
        store.jobs.get,
        store.jobs.events,
        store.jobs.checkpoints,
        store.jobs.metrics,
        store.jobs.cancel,
    )
    for use in uses:
        with pytest.raises(JobNotFound):
            use("ftjob-none")
    with pytest.raises(JobNotFound):
        store.jobs.add_event("ftjob-none", "x")


def test_list_is_newest_first_and_filters_by_metadata(store):
    jobs = [
        store.jobs.create(JobDraft("m", "m", "file-a", metadata={"n": str(n % 2), "k": "v"}))
        for n in range(4)
    ]
    page = store.jobs.list(limit=3)
    assert [job.id for job in page.items] == [jobs[3].id, jobs[2].id, jobs[1].id]
    assert page.has_more
    assert [job.id for job in store.jobs.list(after=jobs[1].id).items] == [jobs[0].id]
    odd = store.jobs.list(metadata={"n": "1", "k": "v"})
    assert [job.id for job in odd.items] == [jobs[3].id, jobs[1].id]
    with pytest.raises(InvalidValue) as caught:
        store.jobs.list(after="ftjob-none")
    assert caught.value.param == "after"


def test_events_are_newest_first_and_know_only_their_own_cursors(store):
    job, other = store.jobs.create(DRAFT), store.jobs.create(DRAFT)
    added = store.jobs.add_event(
        job.id, "careful", level=EventLevel.WARN, type=EventType.METRICS, data={"x": 1}
    )
    page = store.jobs.events(job.id, limit=1)
    assert page.items == [added]
    assert page.has_more
    assert len(store.jobs.events(job.id, after=added.id).items) == 1
    with pytest.raises(InvalidValue):
        store.jobs.events(other.id, after=added.id)


def test_waiting_behind_counts_the_jobs_before(store):
    jobs = [store.jobs.create(DRAFT) for _ in range(3)]
    assert [store.jobs.get(job.id).waiting_behind for job in jobs] == [0, 1, 2]
    claim = store.queue.claim(Stage.PREPARING, "worker", 10)
    store.queue.admit(claim, Admission({}, {}, "ft:tiny:personal::abcdefgh"))
    store.queue.start(store.queue.claim(Stage.RUNNING, "worker", 10))
    assert [store.jobs.get(job.id).waiting_behind for job in jobs] == [0, 1, 2]
    store.jobs.cancel(jobs[0].id)
    assert [job.waiting_behind for job in store.jobs.list().items] == [1, 0, 0]


def test_cancel_ends_a_job_at_once_and_for_good(store):
    job = store.jobs.create(DRAFT)
    cancelled = store.jobs.cancel(job.id)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.finished_at is not None
    assert texts(store, job.id)[-1] == "Fine-tuning job cancelled"
    with pytest.raises(InvalidRequest, match=r"Job has already completed.*cancelled"):
        store.jobs.cancel(job.id)
    assert store.queue.claim(Stage.PREPARING, "worker", 10) is None


def model(name, kind=ModelKind.TUNED, job_id="ftjob-1"):
    base = BaseRef("tiny", "/models/tiny", "00")
    return Model(name, kind, 5, "personal", base, "/models/x", "11", job_id, parent="ft:p")


def test_models_come_back_as_they_were_added(store):
    tuned = model("ft:tiny:personal::abcdefgh")
    checkpoint = model(f"{tuned.name}:ckpt-step-2", ModelKind.CHECKPOINT)
    store.models.add(tuned)
    store.models.add(checkpoint)
    assert store.models.get(checkpoint.name) == checkpoint
    assert store.models.list() == [tuned]
    assert store.models.list(kinds=[ModelKind.CHECKPOINT]) == [checkpoint]


def test_the_name_of_a_deleted_model_can_be_given_again_and_one_in_use_cannot(store):
    first, second = model("mine"), dataclasses.replace(model("mine"), adapter_sha256="22")
    store.models.add(first)
    with pytest.raises(InvalidValue, match="'mine' is taken"):
        store.models.add(second)
    store.models.delete("mine")
    store.models.add(second)
    assert store.models.list() == [second]


def test_a_deleted_model_takes_its_checkpoints_with_it(store):
    tuned, other = model("ft:tiny:personal::aaaaaaaa"), model("ft:b", job_id="ftjob-2")
    checkpoints = [model(f"{tuned.name}:ckpt-step-{n}", ModelKind.CHECKPOINT) for n in (1, 2)]
    for each in (tuned, other, *checkpoints):
        store.models.add(each)
    store.models.delete(checkpoints[0].name)
    assert store.models.get(tuned.name) == tuned
    store.models.delete(tuned.name)
    for gone in (tuned, *checkpoints):
        with pytest.raises(ModelNotFound):
            store.models.get(gone.name)
        with pytest.raises(ModelNotFound):
            store.models.delete(gone.name)
    assert store.models.list() == [other]
