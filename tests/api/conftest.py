"""The whole API over a real store and the echo engine, with one tiny base model on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_calls import TUNED, register_tuned
from fastapi.testclient import TestClient

from sintonia import catalog as catalog_module
from sintonia import settings as settings_module
from sintonia.api.app import create_app
from sintonia.api.services import Services
from sintonia.bases.library import Library
from sintonia.generation.engines.echo import EchoEngine
from sintonia.store import Store

LIMITS = {"engine_slots": 2, "engine_queue": 2}


@pytest.fixture
def home(tmp_path: Path, tiny_home: Path) -> Path:
    """A home of the test's own, with the base model ``tiny``."""
    shutil.copytree(tiny_home / "models", tmp_path / "models")
    return tmp_path


@pytest.fixture
def services(home: Path) -> Iterator[Services]:
    settings = settings_module.load({}, home=home, max_file_bytes=200_000, engine="echo", **LIMITS)
    catalog = catalog_module.load({"gpt-tiny": "tiny"})
    services = Services(
        settings=settings,
        store=Store.open(settings),
        library=Library(home, catalog),
        catalog=catalog,
        engine=EchoEngine(slots=LIMITS["engine_slots"], queue=LIMITS["engine_queue"]),
    )
    yield services
    services.store.close()


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    app = create_app(services)
    with TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def tuned(services: Services) -> str:
    """The name of a tuned model over ``tiny``, as the worker registers one."""
    return register_tuned(services, TUNED)
