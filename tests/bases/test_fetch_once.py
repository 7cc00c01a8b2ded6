"""Several callers, one fetch; what a dead process left; damaged models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sintonia.bases.library import Library
from sintonia.errors import DownloadFailed, InvalidValue, ModelNotFound
from sintonia.errors import RefusedModel as Refused
from tiny_models import wait_until

WHEEL = "smollm2-135m-instruct"
HUB = "smollm2-135m-instruct-hub"


def quiet(_what: str, _part: float) -> None:
    """Show no progress."""


def test_callers_at_the_same_time_start_one_process(library):
    # The fetching process reads this setting and fails at once, without a network.
    (library.home / "sintonia.toml").write_text('embedded_wheel = "/no/such/file.whl"\n')
    for _ in range(5):
        Library(library.home, library.catalog).start_fetch(WHEEL)
    assert library.fetch_problem(WHEEL) is None
    wait_until(lambda: library.fetch_problem(WHEEL) is not None)
    log = (library.home / "downloads" / f"{WHEEL}.log").read_text()
    assert log.count("there is no such file") == 1


def hub(monkeypatch, download) -> None:
    import huggingface_hub

    commit = SimpleNamespace(sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_who_waited_for_a_failed_fetch_reports_it_and_does_not_repeat_it(library, monkeypatch):
    calls, waiting, problems = [], threading.Event(), []

    def download(*_, **__):
        calls.append(1)
        assert waiting.wait(30)
        raise OSError(28, "No space left")

    def progress(what: str, _part: float) -> None:
        if what.startswith("waiting"):
            waiting.set()

    def fetch() -> None:
        with pytest.raises(DownloadFailed, match="from the hub") as failed:
            Library(library.home, library.catalog).fetch(HUB, progress)
        problems.append(failed.value.message)

    hub(monkeypatch, download)
    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1
    assert problems[0] == problems[1] == library.fetch_problem(HUB)


def test_the_next_fetch_after_a_failed_one_tries_again(library, monkeypatch):
    calls = []

    def download(*_, **__):
        calls.append(1)
        raise OSError(28, "No space left")

    hub(monkeypatch, download)
    for _ in range(2):
        with pytest.raises(DownloadFailed):
            library.fetch(HUB, quiet)
    assert len(calls) == 2


def test_a_killed_fetch_gives_its_lock_back_and_its_work_is_thrown_away(library):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from sintonia.bases.downloads import Downloads\n"
        "downloads = Downloads(Path(sys.argv[1]))\n"
        "with downloads.held('mine'), downloads.work_folder('mine') as work:\n"
        "    (work / 'half').write_bytes(b'half'); print(work, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(library.home / "downloads")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        assert library._downloads.take("mine") is None
        os.kill(process.pid, signal.SIGKILL)
    with library._downloads.held("mine"), library._downloads.work_folder("mine") as work:
        assert work != left
        assert not left.exists()
        assert not list(work.iterdir())


def test_adding_waits_for_whoever_adds_the_same_name(library, folder):
    problems = []

    def add() -> None:
        try:
            Library(library.home, library.catalog).add("mine", folder)
        except InvalidValue as problem:
            problems.append(problem.message)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(problems) == 2
    assert all("is taken" in problem for problem in problems)
    assert library.find("mine") is not None


def damage(base) -> None:
    weights = Path(base.ref.folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


def from_folder(folder):
    def download(_name, *, local_dir, **_rest):
        import shutil

        shutil.copytree(folder, local_dir)

    return download


def test_a_damaged_model_of_the_catalog_is_fetched_again(library, folder, monkeypatch):
    hub(monkeypatch, from_folder(folder))
    base = library.fetch(HUB, quiet)
    assert not library.discard_damaged(HUB)
    damage(base)
    assert library.discard_damaged(HUB)
    assert library.find(HUB) is None
    assert library.fetch(HUB, quiet).ref == base.ref
    assert not library.discard_damaged(HUB)


def test_a_damaged_model_of_a_folder_is_added_again(library, folder):
    base = library.add("mine", folder)
    damage(base)
    with pytest.raises(Refused, match="sintonia models add mine FOLDER"):
        library.discard_damaged("mine")
    assert library.add("mine", folder).ref == base.ref
    with pytest.raises(InvalidValue, match="taken"):
        library.add("mine", folder)


def test_a_removed_model_is_gone_and_its_name_is_free(library, folder):
    library.add("mine", folder)
    library.remove("mine")
    assert not library.holds("mine")
    with pytest.raises(ModelNotFound):
        library.remove("mine")
    library.add("mine", folder)


def test_an_index_that_cannot_be_reached_is_named_as_the_likely_cause(library, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(DownloadFailed) as failed:
        library.fetch(WHEEL, quiet)
    assert "check the network and pip's settings" in failed.value.message
    assert "PIP_INDEX_URL" in library.fetch_problem(WHEEL)
