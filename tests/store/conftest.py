"""A store in a fresh home."""

from __future__ import annotations

from pathlib import Path

import pytest

from sintonia import settings
from sintonia.store import Store


@pytest.fixture
def given(tmp_path: Path) -> settings.Settings:
    """Settings of a fresh home with a small size limit."""
    return settings.load({}, home=str(tmp_path / "home"), max_file_bytes=1000, min_free_bytes=0)


@pytest.fixture
def store(given):
    """The store of that home."""
    opened = Store.open(given)
    yield opened
    opened.close()
