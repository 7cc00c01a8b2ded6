"""A home to move into, and an account to move from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from account import Account, served

from sintonia import settings as settings_module
from sintonia.store import Store


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def url(account: Account) -> Iterator[str]:
    with served(account) as url:
        yield url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("SINTONIA_HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return folder


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    opened = Store.open(settings_module.load())
    yield opened
    opened.close()
