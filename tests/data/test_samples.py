from __future__ import annotations

import errno
import fcntl
import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, load_samples
from sintonia.data.validate import iter_examples
from sintonia.errors import InvalidData
from sintonia.sealed import hash_file

RULES = EncodingRules(context_tokens=512, truncate=False)


@pytest.fixture(scope="module")
def base_folder(tiny_home) -> Path:
    base = Library(tiny_home, catalog.load()).find("tiny")
    assert base is not None
    return Path(base.ref.folder)


@pytest.fixture(scope="module")
def renderer(base_folder) -> Renderer:
    return Renderer.from_folder(base_folder)


@pytest.fixture
def file(tmp_path) -> Path:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "More"},
        {"role": "assistant", "content": "Of course, with pleasure"},
    ]
    rows = [{"messages": turns[: 2 + 2 * (n % 2)]} for n in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_encoded_rows_are_what_the_renderer_gives(renderer, file, tmp_path):
    samples = load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    assert samples.num_rows == 12
    for number, example in iter_examples(file):
        stored = samples.sequences_of([number - 1])
        expected = renderer.sequences(example)
        assert len(stored) == len(expected)
        for ours, theirs in zip(stored, expected, strict=True):
            assert ours.tokens.tolist() == [*theirs.prompt_ids, *theirs.answer_ids]
            assert ours.num_prompt_tokens == len(theirs.prompt_ids)
            assert ours.row == number - 1


def test_a_second_load_reads_the_cache_and_not_the_file(renderer, file, tmp_path):
    first = load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    sha256 = hash_file(file)
    file.unlink()
    second = load_samples(file, sha256, renderer, RULES, tmp_path / "cache")
    assert np.array_equal(first.row_tokens_R, second.row_tokens_R)


def test_a_cache_without_its_seal_is_made_anew(renderer, file, tmp_path):
    load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    (folder / "manifest.json").unlink()
    (folder / "tokens.npy").write_bytes(b"torn")
    samples = load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    assert samples.num_rows == 12


def test_a_file_that_changed_since_it_was_checked_is_refused(renderer, file, tmp_path):
    sha256 = hash_file(file)
    file.write_text(file.read_text().replace("Hello", "Hallo"))
    with pytest.raises(InvalidData, match="changed since it was checked"):
        load_samples(file, sha256, renderer, RULES, tmp_path / "cache")


def test_what_turns_share_counts_once_among_a_rows_tokens(renderer, file, tmp_path):
    samples = load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    sequences = samples.sequences_of([1])
    assert samples.row_tokens_R[1] < sum(len(s.tokens) for s in sequences)
    assert samples.row_tokens_R[1] >= max(len(s.tokens) for s in sequences)


def test_a_row_past_the_context_is_refused_or_cut(renderer, file, tmp_path):
    with pytest.raises(InvalidData, match="Example 1 has"):
        load_samples(
            file, hash_file(file), renderer, EncodingRules(24, truncate=False), tmp_path / "a"
        )
    with pytest.raises(InvalidData, match="nothing to learn"):
        load_samples(
            file, hash_file(file), renderer, EncodingRules(20, truncate=True), tmp_path / "b"
        )
    cut = load_samples(
        file, hash_file(file), renderer, EncodingRules(55, truncate=True), tmp_path / "c"
    )
    assert max(len(s.tokens) for s in cut.sequences_of(range(12))) <= 55
    assert cut.num_rows == 12


def test_who_waits_for_the_encoding_is_told_of_the_rows(renderer, file, tmp_path):
    told = []
    load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache", told.append)
    assert told == [12]
    load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache", told.append)
    assert told == [12], "the second time nothing is encoded"


def test_who_waits_for_another_encoder_is_told_so_too(renderer, file, tmp_path):
    load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    (lock,) = (tmp_path / "cache").glob("*.lock")
    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        released = []

        def told(rows):
            released.append(rows)
            if len(released) == 2:
                fcntl.flock(held, fcntl.LOCK_UN)

        load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache", told)
    assert released == [0, 0]


def test_a_full_disk_is_told_by_its_number_and_leaves_nothing_behind(renderer, file, tmp_path):
    cache = tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Enough for the tokens, not for the same with a header.
        size_bytes = 4 * sum(
            len(sequence) for _, row in iter_examples(file) for sequence in renderer.sequences(row)
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 64, before[1]))
        with pytest.raises(OSError) as refused:
            load_samples(file, hash_file(file), renderer, RULES, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert refused.value.errno == errno.EFBIG
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_encoder_left_goes(renderer, file, tmp_path):
    load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    torn = folder.with_name(f"{folder.name}.4194305.work")
    folder.rename(torn)
    (torn / "manifest.json").unlink()
    load_samples(file, hash_file(file), renderer, RULES, tmp_path / "cache")
    assert not torn.exists()


def test_learning_only_the_last_answer_is_another_cache(renderer, base_folder, file, tmp_path):
    last = Renderer.from_folder(base_folder, learns_last_only=True)
    cache = tmp_path / "cache"
    every = load_samples(file, hash_file(file), renderer, RULES, cache)
    only = load_samples(file, hash_file(file), last, RULES, cache)
    for row in range(12):
        expected = every.sequences_of([row])[-1]
        (found,) = only.sequences_of([row])
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.num_prompt_tokens == expected.num_prompt_tokens
