from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.errors import CorruptDownload, DownloadFailed, InvalidValue, ModelNotFound


def test_an_added_folder_is_found_again_with_its_facts(library, folder):
    added = library.add("mine", folder)
    found = library.find("mine")
    assert found == added
    assert found.facts.context_tokens == 512
    assert found.facts.stop_tokens == ("<|im_end|>",)
    assert library.knows("mine")
    assert [base.ref.name for base in library.installed()] == ["mine"]


def test_a_base_without_a_template_gets_ours(library, folder):
    added = library.add("mine", folder)
    assert "<|im_start|>" in (Path(added.ref.folder) / "chat_template.jinja").read_text()


def test_a_folder_without_a_manifest_does_not_exist(library, folder):
    added = library.add("mine", folder)
    (Path(added.ref.folder) / "manifest.json").unlink()
    assert library.find("mine") is None


@pytest.mark.parametrize("name", ["../evil", "", "a/b", ".hidden", "x" * 97, "gpt-4o", "gpt-4o-x"])
def test_a_name_that_is_no_plain_name_or_is_taken_is_refused(library, folder, name):
    with pytest.raises(InvalidValue):
        library.add(name, folder)


def test_an_unknown_name_is_not_fetched(library):
    with pytest.raises(ModelNotFound):
        library.fetch("nobody", lambda _what, _part: None)
    with pytest.raises(ModelNotFound):
        library.start_fetch("../../etc")


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / "llm_tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_tiny/model.gguf", b"not a gguf")
    return path


def with_wheel(library: Library, wheel: Path, sha256: str) -> Library:
    entry = library.catalog.entries["smollm2-135m-instruct"]
    entry = replace(entry, sha256=sha256, file="llm_tiny/model.gguf")
    changed = replace(library.catalog, entries={entry.name: entry})
    return Library(library.home, changed, embedded_wheel=str(wheel))


def test_a_corrupt_download_is_noticed_thrown_away_and_remembered(library, wheel):
    library = with_wheel(library, wheel, "0" * 64)
    with pytest.raises(CorruptDownload, match="sha256"):
        library.fetch("smollm2-135m-instruct", lambda _what, _part: None)
    assert library.find("smollm2-135m-instruct") is None
    assert "sha256" in library.fetch_problem("smollm2-135m-instruct")
    assert not list(library.home.rglob("*.whl"))


def test_a_gguf_that_cannot_be_converted_leaves_nothing_behind(library, wheel):
    library = with_wheel(library, wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(DownloadFailed, match="could not be converted"):
        library.fetch("smollm2-135m-instruct", lambda _what, _part: None)
    assert library.find("smollm2-135m-instruct") is None
    assert not list((library.home / "downloads").glob("*.work"))


def test_what_an_interrupted_fetch_left_is_not_used(library, folder):
    work = library.home / "downloads" / "mine.work" / "copied"
    work.mkdir(parents=True)
    (work / "model.safetensors").write_bytes(b"half")
    added = library.add("mine", folder)
    assert (Path(added.ref.folder) / "model.safetensors").stat().st_size > 1000


def test_a_setting_that_names_no_wheel_says_so(library):
    library = Library(library.home, library.catalog, embedded_wheel="/nowhere.whl")
    with pytest.raises(DownloadFailed, match="no such file"):
        library.fetch("smollm2-135m-instruct", lambda _what, _part: None)


def test_the_fetch_command_answers_in_words(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sintonia.bases", "nobody"],
        env={"SINTONIA_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_model_has_the_same_hash_wherever_and_whenever_it_is_added(folder, tmp_path):
    refs = []
    for home in (tmp_path / "one", tmp_path / "two"):
        home.mkdir()
        refs.append(Library(home, catalog.load()).add("mine", folder).ref)
    assert refs[0].sha256 == refs[1].sha256
    assert refs[0].folder != refs[1].folder


HUB = "smollm2-135m-instruct-hub"


def from_hub(monkeypatch, download) -> None:
    import huggingface_hub

    commit = SimpleNamespace(sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def quiet(_what: str, _part: float) -> None:
    """Show no progress."""


def test_a_model_of_the_hub_is_sealed_without_the_hubs_own_notes(library, folder, monkeypatch):
    def download(_repository, *, revision, local_dir, allow_patterns):
        assert "chat_template.jinja" in allow_patterns
        assert revision == "c0ffee"
        shutil.copytree(folder, local_dir)
        notes = local_dir / ".cache" / "huggingface" / "download"
        notes.mkdir(parents=True)
        (notes / "config.json.metadata").write_text("etag")

    from_hub(monkeypatch, download)
    base = library.fetch(HUB, quiet)
    assert library.find(HUB) == base
    assert base.facts.source == "HuggingFaceTB/SmolLM2-135M-Instruct@c0ffee"
    assert not (Path(base.ref.folder) / ".cache").exists()
    assert not list((library.home / "downloads").glob("*.work"))


@pytest.mark.parametrize("problem", [OSError(28, "No space left"), httpx.ConnectError("refused")])
def test_a_hub_that_cannot_be_reached_is_remembered(library, monkeypatch, problem):
    def download(_repository, **_options):
        raise problem

    from_hub(monkeypatch, download)
    with pytest.raises(DownloadFailed, match="from the hub"):
        library.fetch(HUB, quiet)
    assert "from the hub" in library.fetch_problem(HUB)


def test_a_disk_that_fails_after_the_download_is_remembered(library, folder, monkeypatch):
    from_hub(monkeypatch, lambda _name, local_dir, **_rest: shutil.copytree(folder, local_dir))
    (library.home / "models").mkdir()
    (library.home / "models" / "base").write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed, match="could not be fetched"):
        library.fetch(HUB, quiet)
    assert "could not be fetched" in library.fetch_problem(HUB)
