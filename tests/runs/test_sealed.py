from __future__ import annotations

import pytest

from sintonia.errors import DamagedCheckpoint
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import RecordKind, RecordWriter, Tail
from sintonia.sealed import read_json, seal, verify, write_json


@pytest.fixture
def sealed(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "weights").write_bytes(bytes(range(256)) * 4)
    (work / "state").write_bytes(b"state")
    seal(work, tmp_path / "step-000001")
    return tmp_path / "step-000001"


def test_a_sealed_folder_verifies(sealed):
    assert set(verify(sealed)["files"]) == {"weights", "state"}


@pytest.mark.parametrize("place", [0, 1, 511, 1023])
def test_a_single_changed_bit_is_detected(sealed, place):
    content = bytearray((sealed / "weights").read_bytes())
    content[place] ^= 1
    (sealed / "weights").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match="weights"):
        verify(sealed)


def test_a_truncated_or_missing_file_is_detected(sealed):
    (sealed / "weights").write_bytes((sealed / "weights").read_bytes()[:-1])
    with pytest.raises(DamagedCheckpoint):
        verify(sealed)
    (sealed / "weights").unlink()
    with pytest.raises(DamagedCheckpoint):
        verify(sealed)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": 3}'])
def test_a_torn_manifest_is_detected(sealed, content):
    (sealed / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedCheckpoint):
        verify(sealed)


def test_a_step_sealed_again_replaces_the_old_one(sealed, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "weights").write_bytes(b"new")
    seal(work, sealed)
    assert set(verify(sealed)["files"]) == {"weights"}


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_tail_waits_for_the_end_of_a_torn_line(tmp_path):
    attempt = RunFolder(tmp_path).attempt(1)
    attempt.path.mkdir()
    writer = RecordWriter(attempt)
    writer.write(RecordKind.STEP, 1.0, {"step": 1})
    with attempt.records.open("ab") as file:
        file.write(b'{"number": 2, "ki')
    records, tail = Tail(attempt.records).read()
    assert [record.number for record in records] == [1]
    with attempt.records.open("ab") as file:
        file.write(b'nd": "step", "time": 2.0, "data": {"step": 2}}\n')
    records, _ = tail.read()
    assert [record.data["step"] for record in records] == [2]


def test_json_files_are_read_back(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, 2.5, "é"]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, "é"]}
