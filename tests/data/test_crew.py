"""Several processes find in a file what one finds, byte for byte, and memory stays flat."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data import parts
from sintonia.data.checking import Checker, EncodingRules
from sintonia.data.crew import Crew, check_parts
from sintonia.data.parts import Splitter
from sintonia.data.renderer import Renderer
from sintonia.data.samples import _ARRAYS, _Writer
from sintonia.data.validate import check_file


@pytest.fixture(scope="module")
def renderer(tiny_home) -> Renderer:
    base = Library(tiny_home, catalog.load()).find("tiny")
    assert base is not None
    return Renderer.from_folder(Path(base.ref.folder))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "FIRST_PART_BYTES", 300)
    monkeypatch.setattr(parts, "PART_BYTES", 700)


def row(number: int) -> bytes:
    turns = [
        {"role": "user", "content": f"Say {number % 50}"},
        {"role": "assistant", "content": "é" * (1 + number % 3)},
    ]
    return json.dumps({"messages": turns * (1 + number % 2)}, ensure_ascii=False).encode() + b"\n"


def write(path: Path, lines) -> Path:
    with path.open("wb") as file:
        file.writelines(lines)
    return path


def write_samples(path: Path, renderer: Renderer, folder: Path, processes: int):
    """Write the arrays of a file, return its report."""
    checker = Checker(path, renderer, EncodingRules(renderer.context_tokens, truncate=False))
    folder.mkdir()
    with _Writer(folder, lambda _rows: None) as writer:
        return check_file(checker, listener=writer.add, processes=processes)


def check(path: Path, renderer: Renderer, folder: Path, processes: int):
    """Return the report of a file and the bytes of its arrays."""
    report = write_samples(path, renderer, folder, processes)
    return report, {name: (folder / f"{name}.npy").read_bytes() for name in _ARRAYS}


def test_a_crew_finds_what_one_process_finds_to_the_byte(renderer, tmp_path, small_parts):
    lines = [b"\xef\xbb\xbf\n", *(row(n) for n in range(200)), b" \n", row(3), row(7).rstrip()]
    path = write(tmp_path / "rows.jsonl", lines)
    alone = check(path, renderer, tmp_path / "alone", 1)
    together = check(path, renderer, tmp_path / "together", 3)
    assert together == alone
    assert alone[0].num_examples == 202
    assert alone[0].warnings


def test_a_crew_tells_the_same_problems_at_the_same_places(renderer, tmp_path, small_parts):
    lines = [row(n) for n in range(200)]
    lines[20] = b"not json\n\n"
    lines[90] = b'{"prompt": "a", "completion": "b"}\n'
    lines[91] = row(2).replace(b"user", b"bot ")
    lines[150] = row(2).replace(b"Say", b"Say" * 300)
    lines[199] = b'{"messages": [\n'
    path = write(tmp_path / "rows.jsonl", lines)
    alone, _ = check(path, renderer, tmp_path / "alone", 1)
    together, _ = check(path, renderer, tmp_path / "together", 2)
    assert together == alone
    assert [problem.line for problem in alone.problems] == [21, 92, 93, 152, 201]
    assert alone.problems[0].message.startswith("Example 21 cannot be parsed")
    assert alone.problems[-1].message.startswith("Example 200 cannot be parsed")


def test_the_parts_of_a_file_are_the_file(tmp_path, small_parts):
    lines = [row(n) if n % 7 else b" \t\r\n" for n in range(100)]
    lines[50] = b"x" * 5000 + b"\n"
    path = write(tmp_path / "rows.jsonl", [b"\xef\xbb\xbf", *lines, b"end"])
    with path.open("rb") as file:
        splitter = Splitter(file)
        found = list(splitter)
    content = path.read_bytes()
    assert splitter.size_bytes == len(content)
    assert len(found) > 10
    for part in found:
        before = content[: part.offset]
        assert before.endswith(b"\n") or not before
        assert part.first_line == 1 + before.count(b"\n")
        lines_before = before.removeprefix(parts.BYTE_ORDER_MARK).split(b"\n")
        assert part.rows_before == sum(bool(line.strip()) for line in lines_before)
    ends = [part.offset + part.size_bytes for part in found]
    assert [0, *ends] == [*(part.offset for part in found), len(content)]


def test_a_file_that_is_no_json_lines_is_given_up_at_its_start(tmp_path, small_parts):
    path = write(tmp_path / "rows.jsonl", [b"[\n", *(row(n) for n in range(100)), b"]\n"])
    report = check_file(Checker(path, None, EncodingRules(0, truncate=False)), processes=2)
    assert (report.num_problems, report.num_examples) == (1, 0)
    assert report.size_bytes == path.stat().st_size


def test_the_parts_of_a_process_that_dies_are_checked_all_the_same(renderer, tmp_path, small_parts):
    path = write(tmp_path / "rows.jsonl", (row(n) for n in range(200)))
    checker = Checker(path, renderer, EncodingRules(512, truncate=False))
    crew = Crew(checker, "chat", 2)
    pids = [member._process.pid for member in crew._members]
    with crew, path.open("rb") as file:
        os.kill(pids[1], signal.SIGKILL)
        found = list(crew.check(Splitter(file)))
    with path.open("rb") as file:
        assert found == [checker.check(part, "chat") for part in Splitter(file)]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_memory_does_not_grow_with_the_rows(renderer, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)
    peaks = {}
    for num_rows in (2_000, 20_000):
        path = write(tmp_path / f"{num_rows}.jsonl", (row(n) for n in range(num_rows)))
        tracemalloc.start()
        write_samples(path, renderer, tmp_path / str(num_rows), 2)
        peaks[num_rows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # What stays of a row is its fingerprint.
    assert peaks[20_000] - peaks[2_000] < 40 * 18_000 + 100_000


def test_memory_of_a_process_of_the_crew_does_not_grow_with_the_rows(renderer, tmp_path):
    path = write(tmp_path / "rows.jsonl", (row(n) for n in range(4_000)))
    checker = Checker(path, renderer, EncodingRules(512, truncate=False))
    with Crew(checker, "chat", 1) as crew:
        (member,) = crew._members
        sizes = []
        for _ in range(6):
            with path.open("rb") as file:
                list(crew.check(Splitter(file)))
            sizes.append(resident_bytes(member._process.pid))
    assert sizes[-1] - sizes[1] < 8_000_000


def resident_bytes(pid: int) -> int:
    asked = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    return int(asked.stdout) * 1024


def test_a_part_without_a_format_is_read_before_the_crew_begins(tmp_path, small_parts):
    lines = [b"{}\n"] * 300 + [row(n) for n in range(50)]
    path = write(tmp_path / "rows.jsonl", lines)
    checker = Checker(path, None, EncodingRules(0, truncate=False))
    with path.open("rb") as file:
        found = list(check_parts(checker, Splitter(file), 2))
    assert sum(findings.problems.count for findings in found) == 300
    assert found[-1].format_name == "chat"


def test_the_command_ends_when_its_parent_does():
    command = [sys.executable, "-m", "sintonia.data.crew"]
    order = {"path": "x", "rules": {"context_tokens": 1, "truncate": False}}
    order |= {"format_name": "chat", "renderer": None}
    done = subprocess.run(
        command, input=json.dumps(order) + "\n", text=True, timeout=60, check=True
    )
    assert done.returncode == 0
