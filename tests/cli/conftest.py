"""A home of its own for every test of the command line, and files to train on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that commands of this test use."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SINTONIA_HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    return folder


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    """Twelve chat rows."""
    path = tmp_path / "good.jsonl"
    path.write_text("".join(chat_row(number) for number in range(12)), encoding="utf-8")
    return path


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    """Twelve chat rows, one with a role that does not exist, one that is no JSON."""
    rows = [chat_row(number) for number in range(12)]
    rows[3] = rows[3].replace('"user"', '"bot"')
    rows[7] = "{broken\n"
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(rows), encoding="utf-8")
    return path


def chat_row(number: int) -> str:
    messages = [
        {"role": "user", "content": f"What is {number} and [bold]{number}[/bold]?"},
        {"role": "assistant", "content": str(2 * number)},
    ]
    return json.dumps({"messages": messages}) + "\n"
