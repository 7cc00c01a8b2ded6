"""Files: rows and bytes stay together, whatever fails between them."""

from __future__ import annotations

import errno
import hashlib
import io
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from sintonia.domain.files import FilePurpose, FileStatus
from sintonia.errors import (
    FileNotFound,
    InsufficientStorage,
    InvalidValue,
    PayloadTooLarge,
    ServerError,
)
from sintonia.store import Store

TUNE = FilePurpose.FINE_TUNE


def put(store, content=(b"hello\n",), filename="train.jsonl", purpose=TUNE):
    return store.files.create(filename=filename, purpose=purpose, content=content)


def blobs_of(given):
    return sorted(path.name for path in (given.home / "files").iterdir())


def test_a_file_comes_back_as_it_was_given(store, tmp_path):
    file = put(store, io.BytesIO(b"some bytes"))
    assert (file.size_bytes, file.sha256) == (10, hashlib.sha256(b"some bytes").hexdigest())
    assert store.files.get(file.id) == file
    with store.files.open(file.id) as content:
        assert content.read() == b"some bytes"
    store.files.copy_to(file.id, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"some bytes"


def test_content_may_be_an_iterable_of_chunks(store):
    file = put(store, iter([b"ab", b"", b"cd"]))
    assert file.sha256 == hashlib.sha256(b"abcd").hexdigest()


def test_status_can_be_given_and_set(store):
    file = store.files.create(
        filename="x",
        purpose=TUNE,
        content=[b"x"],
        status=FileStatus.ERROR,
        status_details="no rows",
    )
    assert store.files.get(file.id).status_details == "no rows"
    assert store.files.set_status(file.id, FileStatus.PROCESSED, None) == replace(
        file, status=FileStatus.PROCESSED, status_details=None
    )


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(store, given):
    with pytest.raises(PayloadTooLarge):
        put(store, iter([b"x" * 600, b"x" * 600]))
    assert blobs_of(given) == []
    assert store.files.list().items == []


def test_a_nearly_full_disk_refuses_before_writing(given):
    store = Store.open(replace(given, min_free_bytes=2**62))
    with pytest.raises(InsufficientStorage):
        put(store)
    assert blobs_of(given) == []
    store.close()


def test_a_disk_that_gets_full_while_writing_is_said_to_be_full(store, given):
    def chunks():
        yield b"x"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InsufficientStorage):
        put(store, chunks())
    assert blobs_of(given) == []


def test_a_client_that_goes_away_leaves_nothing(store, given):
    def chunks():
        yield b"x"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        put(store, chunks())
    assert blobs_of(given) == []


@pytest.mark.parametrize("name", ["\ud800.jsonl", "nul\0.jsonl"])
def test_a_name_that_is_no_text_is_refused(store, given, name):
    with pytest.raises(InvalidValue):
        put(store, filename=name)
    assert blobs_of(given) == []


def test_a_name_is_only_a_label(store, given):
    file = put(store, filename="../../../etc/passwd")
    assert store.files.get(file.id).filename == "../../../etc/passwd"
    assert blobs_of(given) == [file.id]


def test_list_goes_page_by_page_in_both_directions(store):
    made = [put(store).id for _ in range(5)]
    first = store.files.list(limit=2)
    assert [file.id for file in first.items] == [made[4], made[3]]
    assert first.has_more
    last = store.files.list(limit=3, after=made[3])
    assert [file.id for file in last.items] == [made[2], made[1], made[0]]
    assert not last.has_more
    ascending = store.files.list(order="asc", after=made[1], limit=2)
    assert [file.id for file in ascending.items] == [made[2], made[3]]


def test_list_of_a_purpose_knows_only_its_own_cursors(store):
    other = put(store, purpose=FilePurpose.BATCH)
    file = put(store)
    assert store.files.list(purpose="fine-tune").items == [file]
    with pytest.raises(InvalidValue) as caught:
        store.files.list(purpose="fine-tune", after=other.id)
    assert caught.value.param == "after"


def test_a_deleted_file_is_gone_with_its_bytes(store, given):
    file = put(store)
    store.files.delete(file.id)
    assert blobs_of(given) == []
    for use in (store.files.get, store.files.open, store.files.delete):
        with pytest.raises(FileNotFound):
            use(file.id)


def test_bytes_that_were_lost_are_a_fault_of_ours(store, given):
    file = put(store)
    (given.home / "files" / file.id).unlink()
    with pytest.raises(ServerError):
        store.files.open(file.id)


def test_sweep_removes_what_no_row_refers_to(store, given):
    file = put(store)
    staged = store.files.stage("result.csv", TUNE, [b"x"])
    (given.home / "files" / ".tmp-file-torn").write_bytes(b"half")
    assert store.files.sweep(older_than_seconds=60) == 0
    assert set(store.files.orphans(0)) == {staged.id, ".tmp-file-torn"}
    assert store.files.sweep(older_than_seconds=0) == 2
    assert blobs_of(given) == [file.id]


def test_files_of_many_threads_do_not_mix(store):
    contents = [str(number).encode() * 50 for number in range(16)]
    made = {}

    def upload(content):
        made[content] = put(store, iter([content[:7], content[7:]]))

    threads = [threading.Thread(target=upload, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.files.list().items) == 16
    for content, file in made.items():
        with store.files.open(file.id) as stored:
            assert stored.read() == content


UPLOADER = """
from sintonia import failpoints, settings
from sintonia.domain.files import FilePurpose
from sintonia.domain.jobs import JobDraft
from sintonia.store import Store
given = settings.load()
failpoints.arm(given.failpoint)
store = Store.open(given)
store.files.create(filename="a", purpose=FilePurpose.FINE_TUNE, content=[b"one", b"two"])
store.jobs.create(JobDraft(model="m", base_model="m", training_file="file-x"))
"""


@pytest.mark.parametrize("point", ["file.write@2", "file.rename", "file.commit", "job.commit"])
def test_a_kill_while_storing_leaves_no_half_visible_thing(store, given, tmp_path, point):
    environment = {
        "SINTONIA_HOME": str(given.home),
        "SINTONIA_FAILPOINT": f"{point}:{tmp_path / 'marker'}",
    }
    command = [sys.executable, "-c", UPLOADER]
    killed = subprocess.run(command, env=environment, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    files = store.files.list().items
    assert len(files) == (1 if point == "job.commit" else 0)
    assert store.jobs.list().items == []
    store.files.sweep(older_than_seconds=0)
    assert blobs_of(given) == [file.id for file in files]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 0
    assert len(store.jobs.list().items) == 1
