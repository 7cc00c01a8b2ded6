"""Uploads: one file at most, whatever happens at the same time."""

from __future__ import annotations

import pytest

from sintonia.domain.files import FilePurpose
from sintonia.domain.uploads import UploadDraft, UploadStatus
from sintonia.errors import InvalidRequest, UploadNotFound

DRAFT = UploadDraft("a.txt", FilePurpose.USER_DATA, 4, "text/plain")


@pytest.fixture
def upload(store):
    return store.uploads.create(DRAFT)


def parts_of(store, upload) -> list[str]:
    return [store.uploads.add_part(upload.id, [data]).id for data in (b"ab", b"cd")]


def blobs_of(given) -> set[str]:
    return {path.name for path in (given.home / "files").iterdir()}


def test_of_two_that_complete_at_once_one_makes_the_file(store, given, upload):
    part_ids = parts_of(store, upload)
    first, second = (store.uploads.join(upload.id, part_ids, None) for _ in range(2))
    done = store.uploads.complete(upload.id, part_ids, first)
    assert store.uploads.complete(upload.id, part_ids, second) == done
    assert [file.id for file in store.files.list().items] == [first.id]
    assert blobs_of(given) == {first.id}


def test_a_cancel_while_it_is_being_completed_wins_and_leaves_nothing(store, given, upload):
    part_ids = parts_of(store, upload)
    file = store.uploads.join(upload.id, part_ids, None)
    assert store.uploads.cancel(upload.id).status is UploadStatus.CANCELLED
    with pytest.raises(InvalidRequest):
        store.uploads.complete(upload.id, part_ids, file)
    assert store.files.list().items == []
    assert blobs_of(given) == set()


def test_a_part_that_was_arriving_at_the_end_is_dropped(store, given, upload):
    def content():
        yield b"ab"
        store.uploads.cancel(upload.id)

    with pytest.raises(InvalidRequest):
        store.uploads.add_part(upload.id, content())
    assert blobs_of(given) == set()


def test_parts_are_nobodys_leftovers(store, given, upload):
    part_ids = parts_of(store, upload)
    assert store.files.sweep(older_than_seconds=0) == 0
    assert blobs_of(given) == set(part_ids)


def test_an_unknown_upload_is_not_found(store):
    with pytest.raises(UploadNotFound):
        store.uploads.add_part("upload_none", [b"x"])
