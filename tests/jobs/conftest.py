"""A home with a base model, its store and a worker's context."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from worker_kit import add_base, behave, open_context

from sintonia import settings
from sintonia.store import Store


@pytest.fixture(scope="session")
def base_home(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_json: str) -> Path:
    """A home that holds only the base model."""
    home = tmp_path_factory.mktemp("base") / "home"
    add_base(home, tiny_tokenizer_json)
    return home


@pytest.fixture
def home(tmp_path: Path, base_home: Path) -> Path:
    """A fresh home with the base model, where trainers do as they should."""
    home = tmp_path / "home"
    shutil.copytree(base_home, home)
    behave(home)
    return home


@pytest.fixture
def given(home: Path) -> settings.Settings:
    return settings.load({}, home=str(home), lease_seconds=0.9, min_free_bytes=0)


@pytest.fixture
def store(given):
    opened = Store.open(given)
    yield opened
    opened.close()


@pytest.fixture
def context(given, store):
    return open_context(given, store)
