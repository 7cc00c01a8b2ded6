"""The worker's side: claims, fences and what is written once."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from sintonia.domain.files import FilePurpose
from sintonia.domain.jobs import EventLevel, EventType, JobDraft, JobError, JobStatus
from sintonia.domain.models import BaseRef, Model, ModelKind, checkpoint_name
from sintonia.errors import InvalidRequest, JobNotFound
from sintonia.store import ClaimLost, Stage, Store
from sintonia.store.claims import (
    Admission,
    CheckpointImport,
    EventImport,
    ImportBatch,
    Settlement,
    StepImport,
)
from sintonia.store.queue import LAUNCHING

DRAFT = JobDraft(model="tiny", base_model="tiny", training_file="file-a")
NAME = "ft:tiny:personal::abcdefgh"
ADMISSION = Admission({"n_epochs": 3}, {"n_epochs": "derived"}, NAME)


def running_claim(store, lease_seconds=30.0):
    job = store.jobs.create(DRAFT)
    store.queue.admit(store.queue.claim(Stage.PREPARING, "w", 30), ADMISSION)
    claim = store.queue.start(store.queue.claim(Stage.RUNNING, "w", lease_seconds))
    assert claim.job.id == job.id
    return store.queue.set_handle(store.queue.start_attempt(claim), "1:2")


def texts(store, job_id):
    return [event.message for event in store.jobs.events(job_id, limit=100).items][::-1]


def step(number, loss=0.25, **more):
    data = {"step": number, "total_steps": 10, "train_loss": loss, **more}
    return StepImport(number, 1000.0 + number, data)


def batch(end, *records, keep=3):
    return ImportBatch(tuple(records), end, keep)


def test_jobs_are_claimed_in_the_order_they_were_made(store):
    jobs = [store.jobs.create(DRAFT) for _ in range(3)]
    claims = [store.queue.claim(Stage.PREPARING, "w", 30) for _ in range(4)]
    assert [claim.job.id for claim in claims[:3]] == [job.id for job in jobs]
    assert claims[3] is None


def test_many_workers_never_claim_the_same_job(given, store):
    for _ in range(40):
        store.jobs.create(DRAFT)
    stores = [store, Store.open(given)]
    claimed = []

    def take(opened):
        while (claim := opened.queue.claim(Stage.PREPARING, "w", 30)) is not None:
            claimed.append(claim.job.id)

    threads = [threading.Thread(target=take, args=(stores[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[1].close()
    assert len(claimed) == len(set(claimed)) == 40


def test_a_lease_that_ran_out_gives_the_job_to_the_next_and_fences_the_first(store):
    first = running_claim(store, lease_seconds=0.05)
    time.sleep(0.06)
    second = store.queue.claim(Stage.RUNNING, "v", 30)
    assert second.job.id == first.job.id
    before = texts(store, first.job.id)
    assert not store.queue.heartbeat(first)
    assert not store.queue.is_held(first)
    writes = [
        lambda: store.queue.import_records(first, batch(1, step(1))),
        lambda: store.queue.set_handle(first, "9:9"),
        lambda: store.queue.start_attempt(first),
        lambda: store.queue.retry(first, 1, "again"),
        lambda: store.queue.note(first, "x"),
        lambda: store.queue.add_event(first, "x"),
        lambda: store.queue.fail(first, JobError("server_error", "x")),
        lambda: store.queue.refresh(first),
    ]
    for write in writes:
        with pytest.raises(ClaimLost):
            write()
    store.queue.release(first)
    assert texts(store, first.job.id) == before
    assert store.queue.is_held(second)


def test_heartbeats_keep_a_claim(store):
    claim = running_claim(store, lease_seconds=0.2)
    for _ in range(4):
        time.sleep(0.1)
        assert store.queue.heartbeat(claim)
    assert store.queue.claim(Stage.RUNNING, "v", 30) is None


def test_a_writer_of_an_earlier_attempt_changes_nothing(store):
    old = running_claim(store)
    new = store.queue.start_attempt(old)
    assert (new.attempt, new.job.handle, new.import_offset) == (2, LAUNCHING, 0)
    with pytest.raises(ClaimLost):
        store.queue.import_records(old, batch(1, step(1)))
    assert store.jobs.metrics(old.job.id) == []
    assert store.queue.heartbeat(old), "the lease belongs to the owner, not to the attempt"


def queued_job(store):
    job = store.jobs.create(DRAFT)
    store.queue.admit(store.queue.claim(Stage.PREPARING, "w", 30), ADMISSION)
    return job


def test_a_queued_job_waits_while_as_many_run_as_may(store):
    first = running_claim(store)
    second = queued_job(store)
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=1) is None
    store.queue.fail(first, JobError("server_error", "x"))
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=1).job.id == second.id


def test_a_claimed_job_that_has_not_started_yet_counts_as_running(store):
    first, second = queued_job(store), queued_job(store)
    claim = store.queue.claim(Stage.RUNNING, "w", 30, max_running=1)
    assert claim.job.id == first.id
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=1) is None
    store.queue.release(claim, retry_after_seconds=30)
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=1).job.id == second.id


def test_a_running_job_that_nobody_holds_comes_before_queued_ones(store):
    older = queued_job(store)
    left = store.queue.claim(Stage.RUNNING, "w", 30)
    queued_job(store)
    running = store.queue.start(store.queue.claim(Stage.RUNNING, "w", 30))
    for claim in (left, running):
        store.queue.release(claim)
    assert older.id == left.job.id
    for number in (1, 2):
        claim = store.queue.claim(Stage.RUNNING, "v", 30, max_running=number)
        assert claim.job.id == running.job.id
        store.queue.release(claim)


def test_a_job_can_be_given_back_for_later(store):
    store.jobs.create(DRAFT)
    claim = store.queue.claim(Stage.PREPARING, "w", 30)
    store.queue.release(claim, retry_after_seconds=0.1)
    assert store.queue.claim(Stage.PREPARING, "w", 30) is None
    time.sleep(0.11)
    assert store.queue.claim(Stage.PREPARING, "w", 30).job.id == claim.job.id


def test_the_lease_of_a_dead_worker_can_be_ended(store):
    claim = running_claim(store)
    (lease,) = store.queue.leases()
    assert lease.owner == claim.owner
    store.queue.expire(replace(lease, owner="somebody else"))
    assert store.queue.is_held(claim)
    store.queue.expire(lease)
    assert store.queue.claim(Stage.RUNNING, "v", 30).job.handle == "1:2"


def test_cancel_takes_the_job_from_its_worker_and_leaves_the_trainer_to_be_stopped(store):
    claim = running_claim(store, lease_seconds=0.05)
    store.jobs.cancel(claim.job.id)
    assert not store.queue.heartbeat(claim)
    assert not store.queue.is_held(claim)
    time.sleep(0.06)
    stopping = store.queue.claim(Stage.STOPPING, "v", 30)
    assert stopping.job.handle == "1:2"
    store.queue.forget_handle(claim.job.id, "1:2")
    assert store.queue.claim(Stage.STOPPING, "v", 30) is None


def test_notes_are_written_once_and_events_every_time(store):
    claim = running_claim(store)
    assert store.queue.note(claim, "once")
    assert not store.queue.note(claim, "once")
    store.queue.add_event(claim, "twice", EventLevel.WARN)
    store.queue.add_event(claim, "twice", EventLevel.WARN)
    assert texts(store, claim.job.id)[-3:] == ["once", "twice", "twice"]


def test_steps_are_told_in_openais_words(store):
    claim = running_claim(store)
    records = [
        step(1, 0.2512),
        step(2, 0.2, valid_loss=0.374),
        step(3, 0.1, valid_loss=0.3, full_valid_loss=0.4),
        EventImport(1004.0, EventLevel.WARN, "a damaged checkpoint"),
        CheckpointImport(3, 1005.0, {"step": 3, "train_loss": 0.1}),
    ]
    store.queue.import_records(claim, batch(99, *records))
    assert texts(store, claim.job.id)[-5:] == [
        "Step 1/10: training loss=0.25",
        "Step 2/10: training loss=0.20, validation loss=0.37",
        "Step 3/10: training loss=0.10, validation loss=0.30, full validation loss=0.40",
        "a damaged checkpoint",
        f"Checkpoint created at step 3 with Snapshot ID: {NAME}:ckpt-step-3",
    ]
    events = store.jobs.events(claim.job.id, limit=5).items
    assert events[4].type is EventType.METRICS
    assert events[4].data["train_loss"] == 0.2512
    (checkpoint,) = store.jobs.checkpoints(claim.job.id).items
    assert (checkpoint.model, checkpoint.metrics["train_loss"]) == (f"{NAME}:ckpt-step-3", 0.1)


def test_records_and_how_far_they_were_read_are_stored_together(store):
    claim = running_claim(store)
    after = store.queue.import_records(claim, batch(50, step(1), EventImport(1.0, "info", "a")))
    assert after.import_offset == 50
    with pytest.raises(ClaimLost):
        store.queue.import_records(claim, batch(50, step(1), EventImport(1.0, "info", "b")))
    assert "b" not in texts(store, claim.job.id)


def test_a_step_that_is_repeated_after_a_resume_is_told_once(store):
    claim = running_claim(store)
    store.queue.import_records(claim, batch(9, step(1), step(2, 0.9), CheckpointImport(2, 2.0, {})))
    before = texts(store, claim.job.id)
    again = store.queue.retry(claim, 1, "again")
    again = store.queue.import_records(
        again, batch(5, step(2, 0.5), CheckpointImport(2, 3.0, {"step": 2}))
    )
    store.queue.import_records(again, batch(9, step(3)))
    assert [row["train_loss"] for row in store.jobs.metrics(claim.job.id)] == [0.25, 0.5, 0.25]
    after = texts(store, claim.job.id)
    assert len(after) == len(before) + 2, "only the retry and step 3 are new"
    assert "Step 2/10: training loss=0.50" in after
    (checkpoint,) = store.jobs.checkpoints(claim.job.id).items
    assert checkpoint.metrics == {"step": 2}


def test_only_the_newest_checkpoints_are_listed(store):
    claim = running_claim(store)
    for number in (2, 4, 6, 8):
        record = CheckpointImport(number, 1.0, {})
        claim = store.queue.import_records(claim, batch(number, record, keep=3))
    page = store.jobs.checkpoints(claim.job.id, limit=2)
    assert [checkpoint.step for checkpoint in page.items] == [8, 6]
    assert page.has_more
    rest = store.jobs.checkpoints(claim.job.id, after=page.items[-1].id)
    assert [checkpoint.step for checkpoint in rest.items] == [4]


def test_failures_count_only_without_progress(store):
    claim = running_claim(store)
    assert claim.failures_after(0) == 1
    claim = store.queue.retry(claim, 0, "again")
    assert (claim.num_failures, claim.attempt) == (1, 2)
    claim = store.queue.retry(claim, 4, "again")
    assert (claim.num_failures, claim.progress_step) == (0, 4)
    claim = store.queue.retry(claim, 4, "again")
    assert claim.num_failures == 1


def settlement(store, *steps):
    base = BaseRef("tiny", "/tiny", "00")
    tuned = Model(NAME, ModelKind.TUNED, 1, "personal", base, "/t", "11", "ftjob-1")
    names = ("step_metrics.csv", "row_losses.csv")
    results = tuple(
        store.files.stage(name, FilePurpose.FINE_TUNE_RESULTS, [b"step\n"]) for name in names
    )
    checkpoints = {
        number: replace(tuned, name=checkpoint_name(NAME, number), kind=ModelKind.CHECKPOINT)
        for number in steps
    }
    return Settlement(tuned, checkpoints, results, trained_tokens=123)


def test_everything_of_a_success_appears_together(store):
    claim = running_claim(store)
    records = [CheckpointImport(number, 1.0, {}) for number in (2, 4)]
    claim = store.queue.import_records(claim, batch(9, *records))
    job = store.queue.settle(claim, settlement(store, 4))
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("succeeded", NAME, 123)
    assert job.finished_at is not None
    assert job.estimated_finish is None
    assert store.models.get(NAME).name == NAME
    results = [store.files.get(file_id).filename for file_id in job.result_files]
    assert results == ["step_metrics.csv", "row_losses.csv"]
    assert [checkpoint.step for checkpoint in store.jobs.checkpoints(job.id).items] == [4]
    assert texts(store, job.id)[-2:] == [
        f"New fine-tuned model created: {NAME}",
        "The job has successfully completed",
    ]


def test_a_cancelled_job_cannot_succeed_any_more(store):
    claim = running_claim(store)
    store.jobs.cancel(claim.job.id)
    with pytest.raises(ClaimLost):
        store.queue.settle(claim, settlement(store))
    assert store.models.list() == []
    assert store.files.list().items == []
    assert store.jobs.get(claim.job.id).status is JobStatus.CANCELLED


def test_a_failure_says_why(store):
    claim = running_claim(store)
    job = store.queue.fail(claim, JobError("invalid_training_file", "no rows", "training_file"))
    assert job.error == JobError("invalid_training_file", "no rows", "training_file")
    (event,) = store.jobs.events(job.id, limit=1).items
    assert (event.level, event.message) == (EventLevel.ERROR, "no rows")
    assert event.data == {"error_code": "invalid_training_file", "error_param": "training_file"}


def test_a_failure_that_the_trainer_told_of_is_one_event_with_its_code(store):
    claim = running_claim(store)
    said = EventImport(0.0, EventLevel.ERROR, "out of memory")
    claim = store.queue.import_records(claim, batch(1, said))
    job = store.queue.fail(claim, JobError("out_of_memory", "out of memory", None))
    told = [e for e in store.jobs.events(job.id).items if e.message == "out of memory"]
    assert [event.data for event in told] == [{"error_code": "out_of_memory", "error_param": None}]


def test_a_paused_job_frees_its_place_and_waits_again_once_resumed(store):
    claim = running_claim(store)
    job_id = claim.job.id
    waiting = queued_job(store)
    assert store.jobs.get(waiting.id).waiting_behind == 1
    assert store.jobs.pause(job_id).status is JobStatus.PAUSING
    assert store.jobs.pause(job_id).status is JobStatus.PAUSING, "asking again changes nothing"
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=1) is None, "it still runs"
    claim = store.queue.import_records(claim, batch(1, step(1)))
    store.queue.pause(store.queue.refresh(claim), "Fine-tuning job paused after step 1")
    paused = store.jobs.get(job_id)
    assert (paused.status, paused.handle) == (JobStatus.PAUSED, None)
    assert store.jobs.pause(job_id).status is JobStatus.PAUSED
    assert not store.queue.heartbeat(claim)
    assert store.jobs.get(waiting.id).waiting_behind == 0
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=1).job.id == waiting.id
    assert store.jobs.resume(job_id).status is JobStatus.QUEUED
    assert store.queue.claim(Stage.RUNNING, "v", 30, max_running=2).job.id == job_id
    assert texts(store, job_id)[-4:] == [
        "Pausing fine-tuning job",
        "Step 1/10: training loss=0.25",
        "Fine-tuning job paused after step 1",
        "Fine-tuning job resumed, moving job to queued state",
    ]


def test_a_job_that_ends_while_it_is_to_be_paused_has_ended(store):
    claim = running_claim(store)
    store.jobs.pause(claim.job.id)
    assert store.queue.fail(claim, JobError("server_error", "x")).status is JobStatus.FAILED


def test_only_running_jobs_are_paused_and_only_paused_ones_resumed(store):
    job_id = queued_job(store).id
    with pytest.raises(InvalidRequest, match="its status is queued"):
        store.jobs.pause(job_id)
    with pytest.raises(InvalidRequest, match="its status is queued"):
        store.jobs.resume(job_id)
    with pytest.raises(JobNotFound):
        store.jobs.pause("ftjob-none")


def test_a_paused_job_can_be_cancelled_and_leaves_nothing_to_stop(store):
    claim = running_claim(store)
    store.jobs.pause(claim.job.id)
    store.queue.pause(store.queue.refresh(claim), "paused")
    assert store.jobs.cancel(claim.job.id).status is JobStatus.CANCELLED
    assert store.queue.claim(Stage.STOPPING, "v", 30) is None


def test_the_checkpoints_that_the_trainer_keeps_are_listed_the_best_among_them(store):
    claim = running_claim(store)
    for number, kept in ((2, (2,)), (4, (2, 4)), (6, (2, 4, 6)), (8, (2, 6, 8))):
        record = CheckpointImport(number, 1.0, {}, kept=kept)
        claim = store.queue.import_records(claim, batch(number, record, keep=3))
    listed = store.jobs.checkpoints(claim.job.id).items
    assert [checkpoint.step for checkpoint in listed] == [8, 6, 2]


def test_a_verdict_is_an_event_and_part_of_the_job(store):
    claim = running_claim(store)
    assert claim.job.verdict is None
    verdict = {"kind": "overfitting", "step": 2, "message": "It has risen."}
    said = EventImport(1.0, EventLevel.WARN, "It has risen.", verdict)
    claim = store.queue.import_records(claim, batch(1, said, said))
    assert claim.job.verdict == verdict
    assert texts(store, claim.job.id).count("It has risen.") == 1
    store.queue.fail(claim, JobError("server_error", "It has risen."))
    assert texts(store, claim.job.id).count("It has risen.") == 1, "its trainer told it already"
