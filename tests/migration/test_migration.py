"""Moving in from an account, through faults and interruptions."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc

import pytest
from account import Account, served

from sintonia import cli, failpoints
from sintonia.api.translate.imported import imported_job_object
from sintonia.domain.files import FilePurpose
from sintonia.domain.imported import ItemKind, ItemState
from sintonia.domain.jobs import JobDraft
from sintonia.errors import RemoteError, ServerError, ServerUnreachable
from sintonia.migration.move import Migration
from sintonia.migration.objects import file_of
from sintonia.migration.pace import Pace
from sintonia.migration.remote import Address, Remote
from sintonia.migration.report import cannot_be_had, markdown, report_of
from sintonia.migration.survey import list_all

ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def migrate(store, url: str, *, threads: int = 4, patience: float = 5.0) -> list[str]:
    pace = Pace(patience)
    with Remote(Address(url), pace, connections=threads) as remote:
        return Migration(remote, store, pace, threads).run()


def filled(account: Account, files: int = 3, jobs: int = 3) -> Account:
    for number in range(len(account.files), files):
        account.add_file(f"file-{number:04d}", ROW * (number + 1))
    for number in range(len(account.jobs), jobs):
        account.add_job(f"ftjob-{number:04d}", f"file-{number % files:04d}")
    return account


def assert_whole(store, account: Account) -> None:
    """Everything that the account gives out is here, once, in its order."""
    had = {i: f for i, f in account.files.items() if f["purpose"] != "assistants"}
    files = store.files.list().items
    assert [file.id for file in files] == list(had)[::-1]
    for file in files:
        content = account.contents[file.id]
        assert store.files.open(file.id).read() == content
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert file.created_at == had[file.id]["created_at"]
    page = store.imported.list_with_own(limit=10_000)
    assert [job.id for job in page.items] == list(account.jobs)[::-1]
    for job in page.items:
        assert job.object == account.jobs[job.id]
        assert store.imported.events(job.id, limit=100).items == account.events[job.id][::-1]
        found = store.imported.checkpoints(job.id, limit=100).items
        assert found == account.checkpoints[job.id][::-1]


def test_everything_comes_with_its_own_ids_and_times(account, url, store):
    filled(account).add_file("file-asst", b"secret", "assistants")
    migrate(store, url)
    assert_whole(store, account)
    report = report_of(store.manifest, url, [])
    assert report.is_whole
    (line,) = cannot_be_had(report)
    assert "file-asst" in line
    assert "Not allowed to download files of purpose: assistants" in line
    assert "`ft:gpt-4o-mini-2024-07-18:acme:mine:00000002` (`ftjob-0002`)" in markdown(report)


def test_a_second_run_reads_only_lists_and_doubles_nothing(account, url, store):
    filled(account)
    migrate(store, url)
    account.requests.clear()
    migrate(store, url)
    assert account.requests == ["/v1/files", "/v1/fine_tuning/jobs"]
    assert_whole(store, account)


def test_what_is_new_since_comes_with_the_next_run(account, url, store):
    migrate(store, url)
    filled(account, files=2, jobs=1)
    migrate(store, url)
    filled(account, files=4, jobs=3)
    migrate(store, url)
    assert_whole(store, account)


@pytest.mark.parametrize("fault", ["429", "500", "cut", "gone"])
def test_a_fault_of_the_network_or_the_server_is_waited_out(fault, account, url, store):
    filled(account)
    account.limit_files = 2
    for path in ("files", "files/file-0001/content", "fine_tuning/jobs/ftjob-0001/events"):
        account.faults[f"/v1/{path}"] = [fault, fault]
    migrate(store, url)
    assert_whole(store, account)
    assert account.requests.count("/v1/files/file-0001/content") == 3


def test_a_pause_that_the_server_asks_for_is_kept_by_all_threads(account, url, store):
    filled(account)
    account.faults["/v1/files/file-0000/content"] = ["429"] * 3
    pace = Pace(0.1)  # less than the pause: it is told instead of waited for
    with (
        Remote(Address(url), pace, connections=2) as remote,
        pytest.raises(RemoteError, match="This is 429"),
    ):
        Migration(remote, store, pace, 2).run()
    migrate(store, url)
    assert_whole(store, account)


def test_a_quota_that_is_used_up_is_told_at_once(account, url, store):
    account.faults["/v1/files"] = ["quota"]
    with pytest.raises(RemoteError, match="This is quota"):
        migrate(store, url)
    assert account.requests == ["/v1/files"]


def test_a_key_that_is_refused_ends_the_run(account, url, store):
    filled(account)
    account.faults["/v1/files/file-0001/content"] = ["401"]
    with pytest.raises(RemoteError, match="This is 401"):
        migrate(store, url)
    migrate(store, url)
    assert_whole(store, account)


def test_a_server_that_stays_away_ends_the_run_and_the_next_goes_on(account, store):
    filled(account)
    with served(account) as url:
        account.faults["/v1/files/file-0002/content"] = ["gone"] * 100
        with pytest.raises(ServerUnreachable, match="run the same command again"):
            migrate(store, url, patience=0.2)
        states = {item.id: item.state for item in store.manifest.items(url)}
        assert states["file-0002"] is ItemState.LISTED
        account.faults.clear()
        migrate(store, url)
    assert_whole(store, account)


def test_a_content_of_the_wrong_size_is_read_again(account, url, store):
    filled(account)
    account.faults["/v1/files/file-0002/content"] = ["short"]
    migrate(store, url)
    assert_whole(store, account)


def test_a_size_that_the_server_says_wrongly_is_remarked_and_the_content_kept(account, url, store):
    account.add_file("file-odd", ROW, bytes=7)
    migrate(store, url)
    assert store.files.open("file-odd").read() == ROW
    (remark,) = report_of(store.manifest, url, []).remarks
    assert "the server says 7; the second reading gave the same" in remark.reason


def test_files_that_are_deleted_meanwhile_are_told_with_the_jobs_that_need_them(
    account, url, store
):
    filled(account)
    account.add_job("ftjob-x", "file-gone", result_files=["file-0001"])
    listed = account.files["file-0002"]
    account.deletes_when_read = "file-0002"
    migrate(store, url)
    lines = "\n".join(cannot_be_had(report_of(store.manifest, url, [])))
    assert "file file-gone: It is not there any more" in lines
    assert "Needed by ftjob-x." in lines
    assert f"file file-0002 {listed['filename']} fine-tune: It is not there" in lines
    assert_whole(store, account)


def test_what_expires_there_stays_here(account, url, store):
    account.add_file("file-b", b"{}\n", "batch_output", expires_at=1_700_000_001)
    migrate(store, url)
    file = store.files.get("file-b")
    assert (file.purpose, file.expires_at) == (FilePurpose.BATCH_OUTPUT, None)


def test_a_job_that_had_not_ended_is_read_again_by_the_next_run(account, url, store):
    filled(account)
    account.jobs["ftjob-0001"] |= {"status": "running", "fine_tuned_model": None}
    migrate(store, url)
    assert_whole(store, account)
    account.jobs["ftjob-0001"]["status"] = "cancelled"
    newest = {**account.events["ftjob-0001"][-1], "id": "ftevent-new", "message": "Cancelled"}
    account.events["ftjob-0001"].append(newest)
    migrate(store, url)
    assert_whole(store, account)


def test_methods_that_are_not_built_are_kept_as_they_came(account, url, store):
    account.add_file("file-a", ROW)
    method = {"type": "reinforcement", "reinforcement": {"grader": {"type": "string_check"}}}
    account.add_job("ftjob-r", "file-a", method=method, hyperparameters=None, odd_extra=[1])
    migrate(store, url)
    shown = imported_job_object(store.imported.get("ftjob-r")).model_dump(mode="json")
    assert shown.pop("sintonia") == {"imported_from": url}
    assert shown == account.jobs["ftjob-r"]


def test_ids_and_objects_that_are_none_are_told_and_touch_nothing(account, url, store, home):
    account.add_file("../../evil", ROW)
    account.add_file("file-time", ROW, created_at="yesterday")
    account.add_file("file-what", ROW, "telepathy")
    account.add_file("file-half", ROW, filename="half \ud800 a character\0")
    odd = migrate(store, url)
    lines = "\n".join(cannot_be_had(report_of(store.manifest, url, odd)))
    assert "'../../evil': the server's list has it, but it is no id" in lines
    assert "'yesterday' is no time" in lines
    assert "'telepathy' is unknown here" in lines
    assert store.files.get("file-half").filename == "half ? a character"
    assert not list(home.parent.rglob("evil*"))


def test_an_id_that_another_file_has_here_is_left_alone(account, url, store):
    mine = store.files.create(
        filename="mine", purpose=FilePurpose.FINE_TUNE, content=[b"my own content"]
    )
    account.add_file(mine.id, ROW)
    migrate(store, url)
    assert store.files.open(mine.id).read() == b"my own content"
    (line,) = cannot_be_had(report_of(store.manifest, url, []))
    assert "another file of 14 bytes has this id here already" in line


def test_what_is_deleted_here_does_not_come_back(account, url, store):
    filled(account)
    migrate(store, url)
    store.files.delete("file-0001")
    migrate(store, url)
    assert [file.id for file in store.files.list().items] == ["file-0002", "file-0000"]


def test_imported_jobs_and_ours_are_one_list_in_order_of_time(account, url, store):
    filled(account, jobs=5)
    migrate(store, url)
    draft = JobDraft(model="m", base_model="m", training_file="file-0000", metadata={"a": "b"})
    own = [store.jobs.create(draft).id for _ in range(3)]
    expected = own[::-1] + list(account.jobs)[::-1]
    found, after = [], None
    while True:
        page = store.imported.list_with_own(after=after, limit=3)
        found += [job.id for job in page.items]
        if not page.has_more:
            break
        after = found[-1]
    assert found == expected
    with_pair = store.imported.list_with_own(metadata={"a": "b"}).items
    assert [job.id for job in with_pair] == own[::-1]
    without = store.imported.list_with_own(metadata={}).items
    assert [job.id for job in without] == list(account.jobs)[::-1]


def run_command(url: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sintonia.cli", "migrate", "openai", "--base-url", url, *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


POINTS = [
    *(name for name in failpoints.NAMES if name.startswith("migrate.")),
    "file.write",
    "file.rename",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_writing_loses_and_doubles_nothing(point, account, url, home):
    filled(account)
    marker = home.parent / "marker"
    killed = run_command(url, SINTONIA_FAILPOINT=f"{point}@2:{marker}")
    assert killed.returncode == -9, killed.stderr
    done = run_command(url)
    assert done.returncode == 0, done.stderr
    from sintonia import settings as settings_module
    from sintonia.store import Store

    store = Store.open(settings_module.load())
    assert_whole(store, account)
    report = json.loads(next((home / "migrations").glob("*.json")).read_text())
    assert report["counts"]["file"]["done"] == report["counts"]["job"]["done"] == 3
    hashes = {i["id"]: i["sha256"] for i in report["items"] if i["kind"] == "file"}
    assert hashes == {file.id: file.sha256 for file in store.files.list().items}
    store.close()


def test_a_dry_run_counts_and_stores_nothing(account, url, home, capfd):
    filled(account).add_file("file-asst", b"x" * 100, "assistants")
    assert cli.main(["migrate", "openai", "--base-url", url, "--dry-run"]) == 0
    words = " ".join(capfd.readouterr().out.split())
    assert "files, assistants 1 100 bytes" in words
    assert f"files, fine-tune 3 {6 * len(ROW)} bytes" in words
    assert "jobs, succeeded 3" in words
    assert not home.exists()


def test_the_command_says_what_came_and_what_cannot_be_had(account, url, home, capfd, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sk-secret")
    filled(account).add_file("file-asst", b"x", "assistants")
    arguments = ["--base-url", url, "--api-key-env", "OTHER_KEY", "--project", "proj_x"]
    assert cli.main(["migrate", "openai", *arguments]) == 0
    assert account.headers["authorization"] == "Bearer sk-secret"
    assert account.headers["openai-project"] == "proj_x"
    shown = capfd.readouterr()
    assert "The weights of tuned models. OpenAI gives none out." in shown.out
    assert "file file-asst" in shown.out
    written = "".join(path.read_text() for path in (home / "migrations").iterdir())
    everything = shown.out + shown.err + written
    assert "sk-secret" not in everything
    assert b"sk-secret" not in (home / "sintonia.db").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Environment variable OPENAI_API_KEY: it is not set"),
        (("--base-url", "nonsense"), "--base-url nonsense: must be the base URL"),
        (("--base-url", "http://127.0.0.1:9/v1", "--patience", "0"), "cannot be reached"),
    ],
)
def test_what_cannot_begin_is_told_in_words(arguments, words, home, capfd):
    assert cli.main(["migrate", "openai", *arguments]) == 1
    assert words in capfd.readouterr().err


def test_a_run_that_broke_off_is_not_told_to_be_whole(account, url, home, capfd):
    filled(account)
    arguments = ["migrate", "openai", "--base-url", url]
    account.faults["/v1/files"] = ["401"]
    assert cli.main(arguments) == 1
    assert "It is not whole yet" in capfd.readouterr().out
    (path,) = (home / "migrations").glob("*.md")
    assert "all that the server has is here" not in path.read_text()
    assert cli.main(arguments) == 0
    assert "not whole" not in capfd.readouterr().out + path.read_text()


def test_a_mistyped_path_leaves_the_report_of_the_right_one_alone(account, url, home):
    filled(account)
    assert cli.main(["migrate", "openai", "--base-url", url]) == 0
    (path,) = (home / "migrations").glob("*.md")
    before = path.read_text()
    assert cli.main(["migrate", "openai", "--base-url", url.replace("/v1", "/v2")]) == 1
    assert path.read_text() == before


def test_bytes_that_were_swept_before_their_file_appeared_are_read_again(account, url, store):
    filled(account)

    with Remote(Address(url), Pace(5.0), connections=1) as remote:
        list_all(remote, store.manifest)
    item = next(store.manifest.pending(url, ItemKind.FILE))
    staged = store.manifest.stage(file_of(item.id, item.object), [b"abc"])
    store.files.sweep(0.0)
    with pytest.raises(ServerError):
        store.manifest.keep_file(item, staged)
    assert store.files.list().items == []
    migrate(store, url)
    assert_whole(store, account)


@pytest.mark.slow
def test_a_thousand_files_and_jobs_take_flat_memory_and_few_connections(store, tmp_path):
    account = filled(Account(), files=1000, jobs=1000)
    content = b"x" * 100_000
    for file_id in account.files:
        account.contents[file_id] = content
        account.files[file_id]["bytes"] = len(content)
    with served(account) as url:
        account.limit_files = 150
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        migrate(store, url, threads=3)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert store.manifest.num_pending(url, ItemKind.FILE) == 0
    assert len(store.files.list().items) == 1000
    assert len(store.imported.list_with_own(limit=2000).items) == 1000
    assert account.most_at_once <= 3
    assert peak < 30e6, "100 MB of files and 1,000 jobs went through"


def test_results_in_base64_stay_as_they_came(account, url, store):
    csv = b"step,train_loss\n" + b"".join(b"%d,0.5\n" % step for step in range(1000))
    account.add_file("file-r", base64.b64encode(csv), "fine-tune-results", filename="r.csv")
    migrate(store, url)
    assert base64.b64decode(store.files.open("file-r").read()) == csv
