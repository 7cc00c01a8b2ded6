"""The demo's figures, in both languages: what the base gets wrong and the tuned model right."""

from __future__ import annotations

import shutil

import pytest
from live import LiveServer
from rich.console import Console

from sintonia.cli.demo import EPOCHS, Language, Plan, Stopwatch, run
from sintonia.cli.tickets import find_examples

pytestmark = [pytest.mark.embedded, pytest.mark.slow]


@pytest.fixture
def server(embedded_home, tmp_path):
    shutil.copytree(embedded_home / "models", tmp_path / "models")
    live = LiveServer(tmp_path).start()
    yield live
    live.stop()


@pytest.mark.parametrize("language", Language)
def test_tuning_teaches_the_tickets_that_the_base_does_not_know(server, language):
    plan = Plan(find_examples(language, None), EPOCHS[language])
    base, tuned = run(plan, server.record()["url"], Console(), Stopwatch())
    assert base.score.right <= 0.10 * base.score.tickets
    assert tuned.score.right >= 0.60 * tuned.score.tickets
    assert tuned.score.right_fields >= 0.80 * tuned.score.fields
