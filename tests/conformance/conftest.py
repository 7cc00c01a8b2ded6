"""Options, the server, and the report of a run of the conformance suite.

A check says what it is about with ``@pytest.mark.endpoint("POST /files")`` or
``@pytest.mark.sdk("openai 3.x")``; the report has one row for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance import report, spec
from conformance.calls import end, make_long_job, upload, wait_for_job
from conformance.sdk.rows import chat_rows, preference_rows
from conformance.target import Target, own_server
from conformance.wire import Ledger, Wire, connected

LEDGER = pytest.StashKey[Ledger]()
CHECKS = pytest.StashKey[list[report.Check]]()
IS_WHOLE = pytest.StashKey[bool]()
"""Whether every check of the suite was asked for."""
HERE = Path(__file__).parent
LAST = "test_answers.py"
"""Judges what all other checks have seen, so it runs after them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--base-url", help="a server to check, with its /v1; default: one of ours")
    group.addoption("--api-key", default="any", help="the key to send")
    group.addoption("--model", default="gpt-4o-mini", help="a base model that can be fine-tuned")
    group.addoption("--report-markdown", metavar="FILE", help="write the table as Markdown")
    group.addoption("--report-json", metavar="FILE", help="write the table as JSON")
    group.addoption("--job-seconds", type=float, default=300.0, help="how long a job may take")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "endpoint(name): the operation that a check is about")
    config.addinivalue_line("markers", "sdk(name): the client library that a check is about")
    config.stash[LEDGER] = Ledger()
    config.stash[CHECKS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = {item.path for item in items if item.path.parent == HERE}
    chosen = config.option.keyword or any("::" in arg for arg in config.args)
    config.stash[IS_WHOLE] = files == set(HERE.glob("test_*.py")) and not chosen
    own = [item for item in items if item.path.parent == HERE]
    places = [number for number, item in enumerate(items) if item.path.parent == HERE]
    for place, item in zip(places, sorted(own, key=_is_last), strict=True):
        items[place] = item


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    subject = _subject(item)
    is_last_word = outcome.when == "call" or outcome.outcome != report.PASSED
    if subject and is_last_word:
        reason = outcome.longrepr[2] if outcome.skipped else ""
        reason = reason.removeprefix("Skipped: ")
        check = report.Check(subject, _sentence(item, subject), outcome.outcome, reason)
        item.config.stash[CHECKS].append(check)
    return outcome


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = _rows(config)
    if not any(row.checks for row in rows):
        return
    terminalreporter.section("conformance")
    terminalreporter.write_line(report.as_text(rows))
    target = {
        "base_url": config.getoption("--base-url", None) or "a server of ours",
        "model": config.getoption("--model", "gpt-4o-mini"),
    }
    report.write(config.getoption("--report-markdown", None), report.as_markdown(rows))
    report.write(config.getoption("--report-json", None), report.as_json(rows, target))


def _is_last(item: pytest.Item) -> bool:
    return item.path.name == LAST


def _rows(config: pytest.Config) -> list[report.Row]:
    answers = {str(o): count for o, count in config.stash[LEDGER].answers.items()}
    operations = map(str, spec.load().operations)
    return report.rows_of(operations, config.stash[CHECKS], answers)


def _subject(item: pytest.Item) -> str | None:
    for kind in ("endpoint", "sdk"):
        marker = item.get_closest_marker(kind)
        if marker is not None:
            return marker.args[0]
    return None


def _sentence(item: pytest.Item, subject: str) -> str:
    """Return what a check says, without what its row says already."""
    sentence, _, case = item.name.removeprefix("test_").replace("_", " ").partition("[")
    case = case.removesuffix("]").removeprefix(subject).removeprefix("-")
    if item.get_closest_marker("sdk"):
        return case
    is_told = case and case != subject.replace("_", " ")
    return f"{sentence}: {case}" if is_told else sentence


@pytest.fixture(scope="package")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The server of this run."""
    config = request.config
    url = config.getoption("--base-url", None)
    if url:
        key, model = config.getoption("--api-key"), config.getoption("--model")
        yield Target(url, key, model, is_ours=False)
        return
    tiny_home = request.getfixturevalue("tiny_home")
    with own_server(tiny_home, tmp_path_factory.mktemp("conformance")) as ours:
        yield ours


@pytest.fixture(scope="package")
def http(target: Target) -> Iterator[httpx.Client]:
    """A plain HTTP client of the server."""
    with connected(target.base_url, target.api_key) as client:
        yield client


@pytest.fixture(scope="package")
def wire(http: httpx.Client, pytestconfig: pytest.Config) -> Wire:
    """The server, its answers checked against the specification."""
    return Wire(http, spec.load(), pytestconfig.stash[LEDGER])


@pytest.fixture
def is_whole(pytestconfig: pytest.Config) -> bool:
    """Whether every check of the suite was asked for."""
    return pytestconfig.stash[IS_WHOLE]


@pytest.fixture(scope="package")
def model(target: Target) -> str:
    """A base model that answers chats and can be fine-tuned."""
    return target.model


@pytest.fixture(scope="package")
def chat_file(wire: Wire) -> str:
    """The id of a training file of conversations."""
    return upload(wire, "chat.jsonl", chat_rows())["id"]


@pytest.fixture(scope="package")
def preference_file(wire: Wire) -> str:
    """The id of a training file of preferences."""
    return upload(wire, "pairs.jsonl", preference_rows())["id"]


@pytest.fixture(scope="package")
def long_file(wire: Wire) -> str:
    """The id of a training file that a job takes its time over."""
    return upload(wire, "long.jsonl", chat_rows(200))["id"]


@pytest.fixture(scope="session")
def job_seconds(pytestconfig: pytest.Config) -> float:
    """How long a job may take."""
    return pytestconfig.getoption("--job-seconds", 300.0)


@pytest.fixture(scope="package")
def ended_job(wire: Wire, model: str, chat_file: str, job_seconds: float) -> dict[str, Any]:
    """A supervised job that has succeeded, with a validation file and metadata."""
    body = {
        "model": model,
        "training_file": chat_file,
        "validation_file": upload(wire, "valid.jsonl", chat_rows(10))["id"],
        "suffix": "conform",
        "seed": 7,
        "metadata": {"team": "conformance"},
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4}},
        },
    }
    made = wire.post("/fine_tuning/jobs", json=body).json()
    job = wait_for_job(wire, made["id"], job_seconds)
    assert job["status"] == "succeeded", job["error"]
    return job


@pytest.fixture(scope="package")
def preference_job(wire: Wire, model: str, preference_file: str, job_seconds: float) -> Any:
    """A job that has learned preferences; the last test that needs its model deletes it."""
    hyperparameters = {"beta": 0.1, "n_epochs": 1}
    body = {
        "model": model,
        "training_file": preference_file,
        "method": {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}},
    }
    made = wire.post("/fine_tuning/jobs", json=body).json()
    assert made["method"]["type"] == "dpo"
    job = wait_for_job(wire, made["id"], job_seconds)
    assert job["status"] == "succeeded", job["error"]
    return job


@pytest.fixture
def long_job(wire: Wire, model: str, long_file: str) -> Iterator[dict[str, Any]]:
    """A job as it was made that takes longer than the checks; it is cancelled afterwards."""
    job = make_long_job(wire, model, long_file)
    yield job
    end(wire, job)
