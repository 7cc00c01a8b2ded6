from __future__ import annotations

import json
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
def renderer(tiny_home) -> Renderer:
    base = Library(tiny_home, catalog.load()).find("tiny")
    assert base is not None
    return Renderer.from_folder(Path(base.ref.folder))


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
    with pytest.raises(InvalidData, match="everything that is learned"):
        load_samples(
            file, hash_file(file), renderer, EncodingRules(20, truncate=True), tmp_path / "b"
        )
    cut = load_samples(
        file, hash_file(file), renderer, EncodingRules(55, truncate=True), tmp_path / "c"
    )
    assert max(len(s.tokens) for s in cut.sequences_of(range(12))) <= 55
    assert cut.num_rows == 12
