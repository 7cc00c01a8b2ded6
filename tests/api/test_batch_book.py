"""The answers of a batch on disk: each once, whatever a crash tore."""

from __future__ import annotations

import errno
import json

import pytest

from sintonia import failpoints
from sintonia.api.batching.book import AnswerBook
from sintonia.api.translate.batches import CANCELLED, EXPIRED, answered, not_answered
from sintonia.domain.batches import BatchTally

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def good(custom_id: str):
    return answered(custom_id, 200, {"text": "a\u2028b", "usage": USAGE})


def bad(custom_id: str):
    return answered(custom_id, 400, {"error": {"message": "no"}})


def ids_in(path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_bytes().splitlines()]


def test_records_go_into_two_files_and_are_counted(tmp_path):
    with AnswerBook(tmp_path) as book:
        book.add([good("a"), bad("b"), not_answered("c", EXPIRED), not_answered("d", CANCELLED)])
        book.add([good("e")])
        assert book.tally == BatchTally(2, 3, 10, 2, 6, 4)
        assert (book.num_done, book.num_expired) == (5, 1)
        assert book.has("c")
        assert not book.has("z")
    assert ids_in(tmp_path / "output.jsonl") == ["a", "e"]
    assert ids_in(tmp_path / "errors.jsonl") == ["b", "c", "d"]


def test_a_book_that_is_opened_again_knows_what_it_knew(tmp_path):
    with AnswerBook(tmp_path) as book:
        book.add([good("a"), bad("b"), not_answered("c", EXPIRED)])
        before = (book.tally, book.num_done, book.num_expired)
    with AnswerBook(tmp_path) as again:
        assert (again.tally, again.num_done, again.num_expired) == before
        assert all(again.has(custom_id) for custom_id in "abc")


@pytest.mark.parametrize(
    "torn", [b'{"custom_id": "b", "resp', b"\0\0\0\0\n", b'{"custom_id": "b"}', b"7\n"]
)
def test_what_a_crash_tore_is_cut_off(tmp_path, torn):
    with AnswerBook(tmp_path) as book:
        book.add([good("a")])
    whole = (tmp_path / "output.jsonl").read_bytes()
    with (tmp_path / "output.jsonl").open("ab") as file:
        file.write(torn)
    with AnswerBook(tmp_path) as again:
        assert not again.has("b")
        assert again.num_done == 1
        assert (tmp_path / "output.jsonl").read_bytes() == whole
        again.add([good("b")])
    assert ids_in(tmp_path / "output.jsonl") == ["a", "b"]


def test_what_a_full_disk_cut_short_leaves_no_trace(tmp_path):
    with AnswerBook(tmp_path) as book:
        book.add([good("a")])
        failpoints.arm(f"batch.sync/FULL:{tmp_path / 'marker'}")
        with pytest.raises(OSError, match="space") as caught:
            book.add([good("b")])
        failpoints.arm("")
        assert caught.value.errno == errno.ENOSPC
        assert not book.has("b")
        book.add([good("c")])
    assert ids_in(tmp_path / "output.jsonl") == ["a", "c"]


def test_every_line_is_one_line_for_any_reader(tmp_path):
    with AnswerBook(tmp_path) as book:
        book.add([good("a"), good("b")])
    assert len((tmp_path / "output.jsonl").read_text("utf-8").splitlines()) == 2
