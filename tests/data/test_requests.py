"""The input of a batch: every problem with its line, and flat memory."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest

from sintonia.data.requests import check_requests, iter_requests

CHAT = "/v1/chat/completions"


def request(number: int = 1, **changes) -> dict:
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"say {number}"}]}
    line = {"custom_id": f"r-{number}", "method": "POST", "url": CHAT, "body": body}
    return {key: value for key, value in {**line, **changes}.items() if value is not ...}


def lines(*values) -> io.BytesIO:
    return io.BytesIO(
        b"\n".join(v if isinstance(v, bytes) else json.dumps(v).encode() for v in values)
    )


def problems_of(*values, **options) -> list[tuple]:
    report = check_requests(lines(*values), CHAT, **options)
    return [(p.code, p.param, p.line) for p in report.problems]


def test_a_good_file_tells_its_model_and_gives_its_requests():
    file = lines(b"\xef\xbb\xbf" + json.dumps(request(1)).encode(), b"", request(2))
    report = check_requests(file, CHAT)
    assert (report.num_requests, report.model, report.model_line) == (2, "tiny", 1)
    assert report.problems == ()
    file.seek(0)
    assert [(r.custom_id, r.body) for r in iter_requests(file)] == [
        ("r-1", request(1)["body"]),
        ("r-2", request(2)["body"]),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{not json", [("invalid_json_line", None, 2)]),
        (b"[1]", [("invalid_json_line", None, 2)]),
        (b'"x"', [("invalid_json_line", None, 2)]),
        (b'{"a": 1, "a": 2}', [("invalid_json_line", None, 2)]),
        (request(2, custom_id=...), [("missing_required_parameter", "custom_id", 2)]),
        (request(2, custom_id=""), [("missing_required_parameter", "custom_id", 2)]),
        (request(2, custom_id=7), [("invalid_type", "custom_id", 2)]),
        (request(2, custom_id="r-1"), [("duplicate_custom_id", "custom_id", 2)]),
        (request(2, method=None), [("missing_required_parameter", "method", 2)]),
        (request(2, method="GET"), [("invalid_value", "method", 2)]),
        (request(2, url="/v1/completions"), [("url_mismatch", "url", 2)]),
        (request(2, url="/v1/files"), [("url_mismatch", "url", 2)]),
        (request(2, body=...), [("missing_required_parameter", "body", 2)]),
        (request(2, body=[]), [("invalid_type", "body", 2)]),
        (request(2, body={}), [("missing_required_parameter", "body.model", 2)]),
        (request(2, body={"model": 3}), [("invalid_type", "body.model", 2)]),
        (request(2, body={"model": "other"}), [("model_mismatch", "body.model", 2)]),
        (
            request(2, body={"model": "tiny", "stream": True}),
            [("unsupported_parameter", "body.stream", 2)],
        ),
        (request(2, params={}), [("unknown_parameter", "params", 2)]),
        (
            request(1, method="PUT", url="/x", params={}),
            [
                ("unknown_parameter", "params", 2),
                ("duplicate_custom_id", "custom_id", 2),
                ("invalid_value", "method", 2),
                ("url_mismatch", "url", 2),
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_number(line, expected):
    assert problems_of(request(1), line, request(3)) == expected


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_says_so(content):
    assert [p.code for p in check_requests(io.BytesIO(content), CHAT).problems] == ["empty_file"]


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", b"[\n", b"PK\x03\x04"])
def test_what_is_no_json_lines_says_what_it_is(content):
    (problem,) = check_requests(io.BytesIO(content), CHAT).problems
    assert problem.code == "invalid_json_line"
    assert "JSON Lines" in problem.message


def test_the_first_hundred_problems_are_told_and_the_others_counted():
    problems = problems_of(*[b"{"] * 1, *[b"{x"] * 150)
    assert len(problems) == 1  # a lone bracket: the file is one object spread over lines
    problems = problems_of(request(1), *[b"{x"] * 150)
    assert [line for _, _, line in problems[:100]] == list(range(2, 102))
    assert problems[100:] == [("more_problems", None, None)]


def test_more_requests_than_a_batch_may_have_are_refused():
    many = [request(number) for number in range(6)]
    assert problems_of(*many, max_requests=6) == []
    assert problems_of(*many, max_requests=5) == [("too_many_tasks", None, None)]


def test_a_check_that_is_called_off_ends_without_a_report():
    answers = iter([False, True])
    assert (
        check_requests(lines(request(1), request(2)), CHAT, is_called_off=lambda: next(answers))
        is None
    )


def test_memory_stays_flat_however_long_the_file_is():
    class Endless(io.RawIOBase):
        """Twenty thousand requests of 4 KB, made as they are read."""

        def __init__(self) -> None:
            self.number = 0

        def readline(self, size=-1):
            self.number += 1
            if self.number > 20_000:
                return b""
            return (
                json.dumps(request(self.number, body={"model": "m", "x": "y" * 4000})).encode()
                + b"\n"
            )

    tracemalloc.start()
    report = check_requests(Endless(), CHAT)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.num_requests, report.problems) == (20_000, ())
    assert peak_bytes < 5_000_000
