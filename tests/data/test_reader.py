from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sintonia.data.problems import ProblemLog
from sintonia.data.reader import MAX_LINE_BYTES, JsonlReader

BOM = b"\xef\xbb\xbf"


def read(content: bytes):
    log = ProblemLog()
    return list(JsonlReader(io.BytesIO(content), log)), log.kept


def only_problem(content: bytes):
    rows, problems = read(content)
    assert [row.value for row in rows] == [None]
    assert len(problems) == 1
    return problems[0]


def test_rows_carry_their_line_and_their_number_and_blank_lines_only_count_as_lines():
    rows, problems = read(b'\n{"a": 1}\n \t\r\n\r\n{"b": 2}\r\n\n{"c": 3}\n\n\n')
    assert [(row.line, row.number, row.value) for row in rows] == [
        (2, 1, {"a": 1}),
        (5, 2, {"b": 2}),
        (7, 3, {"c": 3}),
    ]
    assert not problems


def test_the_last_line_needs_no_newline():
    rows, _ = read(b'{"a": 1}\n{"b": 2}')
    assert [row.value for row in rows] == [{"a": 1}, {"b": 2}]


def test_a_byte_order_mark_at_the_start_of_the_file_is_skipped():
    rows, problems = read(BOM + b'{"a": 1}\n')
    assert [row.value for row in rows] == [{"a": 1}]
    assert not problems


def test_a_byte_order_mark_on_a_later_line_is_refused():
    _, problems = read(b'{"a": 1}\n' + BOM + b'{"a": 1}\n')
    assert [problem.line for problem in problems] == [2]
    assert "byte order mark" in problems[0].message


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_unicode_line_separators_inside_a_text_do_not_end_a_line(separator):
    rows, problems = read(f'{{"a": "one{separator}two"}}\n'.encode())
    assert [row.value for row in rows] == [{"a": f"one{separator}two"}]
    assert not problems


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_named_with_and_without_a_byte_order_mark(encoding):
    text = '{"a": 1}\n{"a": 2}\n'
    rows, problems = read(text.encode(encoding))
    assert rows == []
    assert [problem.line for problem in problems] == [1]
    assert f"is {encoding[:6].upper()} text" in problems[0].message


def test_compressed_data_is_named():
    content = gzip.compress(b'{"a": 1}\n' * 1000)
    log = ProblemLog()
    reader = JsonlReader(io.BytesIO(content), log)
    assert list(reader) == []
    assert not reader.is_json_lines
    assert "gzip" in log.kept[0].message


def test_broken_json_is_told_in_openai_s_words():
    good = b'{"a": "bbbbbbbbbb"}\n'
    _, problems = read(good * 1272 + b'{"a": 1 "b": 2}\n')
    assert problems[0].message == (
        "Example 1273 cannot be parsed. Error: line contains invalid json: "
        "Expecting ',' delimiter: line 1 column 9 (char 8) (line 1273)"
    )
    assert problems[0].line == 1273


@pytest.mark.parametrize(
    ("content", "kind", "line"),
    [
        (b'[\n  {"a": 1},\n  {"a": 2}\n]\n', "a JSON array", 1),
        (b'\n \r\n  [{"a": 1}]', "a JSON array", 3),
        (BOM + b'[{"a": 1}]', "a JSON array", 1),
        (b'[{"a": "' + b"x" * 5_000_000 + b'"}]', "a JSON array", 1),
        (b'{\n  "messages": [\n    1,\n    2\n  ]\n}\n', "a JSON object spread over lines", 1),
    ],
)
def test_one_json_document_is_told_once_with_the_way_out(content, kind, line):
    rows, problems = read(content)
    assert rows == []
    assert [problem.line for problem in problems] == [line]
    assert f"The file is {kind}; it must be JSON Lines" in problems[0].message
    assert "python3 -c" in problems[0].message


def test_the_way_out_of_a_json_document_works():
    _, problems = read(b'[{"a": "\xc3\xa9"}, {"b": 2}]')
    code = problems[0].message.split("'")[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b'[{"a": "\xc3\xa9"}, {"b": 2}]',
        capture_output=True,
        check=True,
    )
    assert [row.value for row in read(done.stdout)[0]] == [{"a": "é"}, {"b": 2}]


def test_an_array_on_a_later_line_is_a_problem_of_that_line():
    rows, problems = read(b'{"a": 1}\n[]\n{"a": 2}\n')
    assert [row.value for row in rows] == [{"a": 1}, None, {"a": 2}]
    assert "line holds a JSON array, not an object" in problems[0].message


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"a": 1e999}', "number 1e999 is too large"),
        (b'{"a": 9223372036854775808}', "integer 9223372036854775808 does not fit in 64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "(5,000 characters) does not fit in 64 bits"),
        (b'{"a": {"b": 1, "b": 1}}', 'key "b" occurs twice in one object'),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "it nests deeper than 64 levels"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "it nests deeper than 64 levels"),
        (b'{"a": ' + b"[" * 100_000, "it nests deeper than 64 levels"),
        (b'{"a": "\0"}', "line holds a NUL character at byte 8"),
        (b'{"a": "caf\xe9"}', "line is not UTF-8: byte 0xe9 at position 11"),
        (b'{"a": "\xed\xa0\x80"}', "line is not UTF-8: byte 0xed at position 8"),
        (b'"text"', "line holds a JSON string, not an object"),
        (b"null", "line holds a JSON null, not an object"),
        (b"17", "line holds a JSON number, not an object"),
        (b'{"a": [' + b"0," * 250_000 + b"0]}", "more than 250,000 brackets and commas"),
    ],
)
def test_what_python_s_parser_lets_through_is_refused_with_the_rule(line, rule):
    problem = only_problem(line)
    assert rule in problem.message
    assert problem.message.startswith("Example 1 cannot be parsed. Error: ")
    assert problem.message.endswith("(line 1)")
    assert problem.line == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a": "' + b"[" * 1000 + b'"}',
        b'{"a": [' + b"[]," * 1000 + b"[]]}",
        b'{"a": [9223372036854775807, -9223372036854775808, 1e308]}',
        b'{"a": "\\ud83d\\ude00"}',
        b'{"a": "\\\\ud800 \\\\u0000"}',
        b'{"a": {"b": 1}, "c": {"b": 1}}',
    ],
)
def test_what_only_looks_forbidden_is_accepted(line):
    rows, problems = read(line)
    assert not problems
    assert rows[0].value == json.loads(line)


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        (rb'{"prompt": "\ud800"}', "prompt", None),
        (rb'{"messages": [{"content": "x"}, {"content": "\udc00 x"}]}', "messages[1].content", 2),
        (rb'{"messages": [{"content": "x\u0000"}]}', "messages[0].content", 1),
        (rb'{"messages": [{"\ud83d\ud83d": 1}]}', "messages[0]", 1),
        (rb'{"\u0000": 1}', None, None),
    ],
)
def test_lone_surrogates_and_nul_escapes_are_refused_with_their_field(line, field, message):
    problem = only_problem(line)
    assert (problem.field, problem.message_number) == (field, message)
    assert "lone surrogate" in problem.message or "NUL" in problem.message
    problem.message.encode()


def test_a_duplicate_key_that_is_no_text_can_still_be_reported():
    only_problem(rb'{"\ud800": 1, "\ud800": 2}').message.encode()


def test_a_document_spread_over_lines_is_explained():
    _, problems = read(b'{\n  "a": 1\n}\n')
    assert "one object on one line" in problems[0].message


def test_reading_goes_on_after_a_bad_row():
    rows, problems = read(b'{"a": 1}\n{]\nNaN\n{"a": 2}\n')
    assert [row.value for row in rows] == [{"a": 1}, None, None, {"a": 2}]
    assert [problem.line for problem in problems] == [2, 3]


def test_the_longest_line_allowed_is_read_and_one_byte_more_is_refused():
    longest = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 9) + b'"}'
    assert len(longest) == MAX_LINE_BYTES
    for end in (b"", b"\n"):
        rows, problems = read(BOM + longest[:-5] + b'"}' + end)
        assert not problems
        assert rows[0].value is not None
        rows, problems = read(b"{}\n" + longest + end)
        assert not problems
        assert rows[1].value is not None
        rows, problems = read(b"{}\n" + longest + b" " + end + b'{"b": 1}'[: 8 * len(end)])
        assert [problem.line for problem in problems] == [2]
        assert f"longer than {MAX_LINE_BYTES:,} bytes" in problems[0].message
        assert [row.value for row in rows] == [{}, None, {"b": 1}][: 2 + len(end)]


def test_an_over_long_line_is_skipped_in_bounded_memory():
    class Endless(io.RawIOBase):
        """A line of 64 MB, made while it is read."""

        left = 64_000_000

        def readable(self):
            return True

        def readinto(self, buffer):
            count = min(len(buffer), self.left)
            buffer[:count] = b"x" * count
            self.left -= count
            return count

    log = ProblemLog()
    tracemalloc.start()
    reader = JsonlReader(io.BufferedReader(Endless()), log)
    rows = list(reader)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.value for row in rows] == [None]
    assert peak_bytes < 3 * MAX_LINE_BYTES


def test_equal_lines_have_equal_fingerprints():
    rows, _ = read(b'{"a": 1}\n{"a": 2}\n{"a": 1}\r\n')
    assert rows[0].fingerprint == rows[2].fingerprint != rows[1].fingerprint


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("k"), inner),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), json_values), max_size=5), st.booleans())
def test_every_row_of_plain_json_comes_back_as_it_was_written(values, ascii_only):
    lines = [json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in values]
    rows, problems = read("".join(lines).encode())
    assert not problems
    assert [row.value for row in rows] == values


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise_or_lose_count(content):
    log = ProblemLog()
    reader = JsonlReader(io.BytesIO(content), log)
    rows = list(reader)
    assert len(rows) == reader.num_rows
    refused = sum(row.value is None for row in rows)
    assert log.count == refused + (not reader.is_json_lines)
