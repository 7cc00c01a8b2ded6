"""SIGKILL of the API at every named point of a batch: the files have each request once."""

from __future__ import annotations

import pytest
from batch_kit import assert_each_answered_once, create_batch, wait_for_batch
from live import LiveServer, home_with_tiny

from sintonia import failpoints

POINTS = [name for name in failpoints.NAMES if name.startswith("batch.")]
FAST = {"batch.sync", "batch.commit"}
AT = {"batch.write": 3, "batch.sync": 5}
"""At which time a point is reached the process dies; the first where not named."""
COUNT = 40


@pytest.mark.parametrize(
    "point",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in POINTS],
)
def test_a_kill_at_a_named_point_loses_and_doubles_nothing(point, tiny_home, tmp_path):
    marker = tmp_path / "marker"
    failpoint = f"{point}@{AT.get(point, 1)}:{marker}"
    environment = {"SINTONIA_ENGINE": "echo", "SINTONIA_FAILPOINT": failpoint}
    home = home_with_tiny(tiny_home, tmp_path / "home")
    server = LiveServer(home, environment).start()
    try:
        client = server.client
        batch = wait_for_batch(client, create_batch(client, COUNT).id)
        assert_each_answered_once(client, batch, COUNT, home)
        assert marker.exists(), f"{point} was never reached"
    finally:
        server.stop()
