"""SIGKILL anywhere while a batch runs: its files have each request once.

`make test` runs a few of the named points, `make crash` all, and random moments.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from batch_kit import assert_each_answered_once, create_batch, wait_for_batch
from live import LiveServer, home_with_tiny

from sintonia import failpoints

POINTS = [name for name in failpoints.NAMES if name.startswith("batch.")]
FAST = {"batch.sync", "batch.commit"}
AT = {"batch.write": 3, "batch.sync": 5}
"""At which time a point is reached the process dies; the first where not named."""
COUNT = 40
MOMENTS = 12
VICTIMS = ("sintonia.api", "serve", "sintonia.generation.host")


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


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_kills_at_random_moments_lose_and_double_nothing(moment, tiny_home, tmp_path):
    numbers = random.Random(moment)
    home = home_with_tiny(tiny_home, tmp_path / "home")
    server = LiveServer(home, {"SINTONIA_ENGINE": "echo"}).start()
    try:
        batch_id = create_batch(server.client, 5 * COUNT).id
        for _ in range(2):
            time.sleep(numbers.uniform(0.0, 2.0))
            kill(server, VICTIMS[moment % len(VICTIMS)])
        batch = wait_for_batch(server.client, batch_id)
        assert_each_answered_once(server.client, batch, 5 * COUNT, home)
    finally:
        server.stop()


def kill(server: LiveServer, victim: str) -> None:
    if victim == "serve":
        server.kill()
        server.start()
        return
    pid = server.child_pid(victim)
    if pid is not None:  # it may be about to be started again
        os.kill(pid, signal.SIGKILL)
