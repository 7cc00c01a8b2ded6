"""Batches in the store: they move as their state machine says, and end in one transaction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sintonia.domain.batches import (
    TRANSITIONS,
    BatchDraft,
    BatchProblem,
    BatchStatus,
    BatchTally,
)
from sintonia.domain.files import FilePurpose
from sintonia.errors import BatchNotFound, FileNotFound, InvalidRequest, InvalidValue
from sintonia.store.batches import BatchOutcome

DRAFT = BatchDraft("file-x", "/v1/completions", metadata={"k": "v"}, output_seconds=3600)


@pytest.fixture
def batch(store):
    return store.batches.create(DRAFT)


def staged(store, name="a.jsonl"):
    return store.files.stage(name, FilePurpose.BATCH_OUTPUT, [b"{}\n"])


def test_a_new_batch_is_validating_and_has_a_day(store, batch):
    assert batch.id.startswith("batch_")
    assert (batch.status, batch.draft) == (BatchStatus.VALIDATING, DRAFT)
    assert batch.expires_at == batch.created_at + 86_400
    assert not batch.has_run_out(batch.expires_at - 1)
    assert batch.has_run_out(batch.expires_at)
    assert store.batches.get(batch.id) == batch
    assert list(store.batches.active()) == [batch]


def test_an_unknown_batch_is_not_found(store):
    for use in (store.batches.get, store.batches.cancel, store.batches.finalize):
        with pytest.raises(BatchNotFound, match="No batch found with id 'batch_x'"):
            use("batch_x")


def test_a_batch_goes_its_way_and_remembers_when(store, batch):
    assert store.batches.admit(batch.id, "tiny", 3)
    store.batches.note(batch.id, BatchTally(completed=1, input_tokens=5))
    running = store.batches.get(batch.id)
    assert (running.model, running.num_requests) == ("tiny", 3)
    assert running.tally == BatchTally(completed=1, input_tokens=5)
    assert store.batches.finalize(batch.id)
    tally = BatchTally(2, 1, 10, 0, 6, 0)
    outcome = BatchOutcome(tally, staged(store, "output"), staged(store, "errors"))
    assert store.batches.settle(batch.id, BatchStatus.COMPLETED, outcome)
    done = store.batches.get(batch.id)
    assert (done.status, done.tally) == (BatchStatus.COMPLETED, tally)
    assert (done.output_file_id, done.error_file_id) == (outcome.output.id, outcome.errors.id)
    assert store.files.get(done.output_file_id) == outcome.output
    assert list(done.entered_at) == [
        BatchStatus.VALIDATING,
        BatchStatus.IN_PROGRESS,
        BatchStatus.FINALIZING,
        BatchStatus.COMPLETED,
    ]
    assert not store.batches.active()


def test_a_batch_moves_only_as_the_state_machine_says(store, given):
    moves = {
        BatchStatus.IN_PROGRESS: lambda id_: store.batches.admit(id_, "m", 1),
        BatchStatus.FINALIZING: store.batches.finalize,
        BatchStatus.FAILED: lambda id_: store.batches.fail(id_, [BatchProblem("c", "m")]),
        BatchStatus.CANCELLING: lambda id_: _cancels(store, id_),
        **{
            end: lambda id_, end=end: store.batches.settle(id_, end, BatchOutcome())
            for end in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)
        },
    }
    ways = {
        BatchStatus.VALIDATING: [],
        BatchStatus.IN_PROGRESS: [BatchStatus.IN_PROGRESS],
        BatchStatus.FINALIZING: [BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING],
        BatchStatus.CANCELLING: [BatchStatus.CANCELLING],
        BatchStatus.COMPLETED: [
            BatchStatus.IN_PROGRESS,
            BatchStatus.FINALIZING,
            BatchStatus.COMPLETED,
        ],
        BatchStatus.EXPIRED: [BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.EXPIRED],
        BatchStatus.FAILED: [BatchStatus.FAILED],
        BatchStatus.CANCELLED: [BatchStatus.CANCELLING, BatchStatus.CANCELLED],
    }
    for before, way in ways.items():
        for after, move in moves.items():
            id_ = store.batches.create(DRAFT).id
            assert all(moves[step](id_) for step in way)
            assert move(id_) == (after in TRANSITIONS[before]), (before, after)


def _cancels(store, batch_id: str) -> bool:
    before = store.batches.get(batch_id).status
    try:
        return store.batches.cancel(batch_id).status is not before
    except InvalidRequest:
        return False


def test_cancelling_twice_changes_nothing_and_of_an_ended_one_is_refused(store, batch):
    first = store.batches.cancel(batch.id)
    assert first.status is BatchStatus.CANCELLING
    assert store.batches.cancel(batch.id) == first
    store.batches.settle(batch.id, BatchStatus.CANCELLED, BatchOutcome())
    with pytest.raises(InvalidRequest, match="status 'cancelled'"):
        store.batches.cancel(batch.id)


def test_files_of_a_batch_that_has_ended_already_do_not_appear(store, batch):
    store.batches.fail(batch.id, [BatchProblem("c", "m", "p", 3)])
    output = staged(store)
    assert not store.batches.settle(batch.id, BatchStatus.COMPLETED, BatchOutcome(output=output))
    with pytest.raises(FileNotFound):
        store.files.get(output.id)
    assert store.batches.get(batch.id).problems == (BatchProblem("c", "m", "p", 3),)


def test_counts_of_a_batch_that_has_ended_stay(store, batch):
    store.batches.fail(batch.id, [])
    before = store.batches.get(batch.id)
    store.batches.note(batch.id, BatchTally(completed=9))
    assert store.batches.get(batch.id) == before


def test_lists_are_newest_first_and_page(store):
    made = [store.batches.create(replace(DRAFT, metadata=None)).id for _ in range(5)]
    page = store.batches.list(limit=2)
    assert ([b.id for b in page.items], page.has_more) == ([made[4], made[3]], True)
    page = store.batches.list(limit=3, after=made[3])
    assert ([b.id for b in page.items], page.has_more) == ([made[2], made[1], made[0]], False)
    with pytest.raises(InvalidValue, match="after"):
        store.batches.list(after="batch_x")


def test_what_the_platform_made_itself_may_be_larger_than_an_upload(store):
    content = [b"x" * 800, b"y" * 800]
    file = store.files.stage("big", FilePurpose.BATCH_OUTPUT, content, is_limited=False)
    assert file.size_bytes == 1600
