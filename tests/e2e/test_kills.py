"""SIGKILL anywhere: the job still succeeds, with the losses of an uninterrupted run to the bit.

The named points of writing and the seeded random moments are many; `make test` runs a few of
them and `make crash` all.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from live import LiveServer, create_job, home_with_tiny, result_rows, wait_for_job

from sintonia import failpoints

FAST = {"settle.commit", "file.commit", "checkpoint.rename"}
AT = {"step": 7, "record.write": 9, "heartbeat": 3}
"""At which time a point is reached the process dies; the first where not named."""
MOMENTS = 20
VICTIMS = ("sintonia.training.run", "sintonia.jobs.worker", "sintonia.api", "serve")
ENVIRONMENT = {
    "SINTONIA_LEASE_SECONDS": "2",
    "SINTONIA_SNAPSHOT_SECONDS": "0",
    "SINTONIA_THREADS": "1",
    "SINTONIA_ENGINE": "echo",
}


@pytest.fixture
def home(tiny_home, tmp_path):
    return home_with_tiny(tiny_home, tmp_path / "home")


def losses(client, job) -> list[tuple]:
    """Return what each step measured, in full: numbers survive JSON to the bit."""
    events = client.fine_tuning.jobs.list_events(job.id, limit=50)
    found = [event.data for event in events if event.type == "metrics"]
    assert len(result_rows(client, job)) == len(found)
    keys = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "full_valid_loss")
    return sorted(tuple(data.get(key, -1.0) for key in keys) for data in found)


@pytest.fixture(scope="module")
def expected(tiny_home, tmp_path_factory):
    server = LiveServer(home_with_tiny(tiny_home, tmp_path_factory.mktemp("calm")), ENVIRONMENT)
    server.start()
    job = wait_for_job(server.client, create_job(server.client).id)
    found = losses(server.client, job)
    server.stop()
    assert len(found) == 12
    return found


def assert_as_if_nothing_happened(client, job, expected) -> None:
    assert job.status == "succeeded", job.error
    assert losses(client, job) == expected
    models = [m.id for m in client.models.list() if m.id == job.fine_tuned_model]
    assert models == [job.fine_tuned_model]
    steps = [c.step_number for c in client.fine_tuning.jobs.checkpoints.list(job.id).data]
    assert steps == [12, 8, 4]
    messages = [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=50)]
    assert messages.count("The job has successfully completed") == 1


POINTS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in failpoints.NAMES
    # test_batch_kills.py, test_migration.py and test_upload_kills.py have the others
    if not name.startswith(("batch.", "migrate.", "upload."))
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_loses_nothing(point, home, tmp_path, expected):
    marker = tmp_path / "marker"
    failpoint = f"{point}@{AT.get(point, 1)}:{marker}"
    server = LiveServer(home, {**ENVIRONMENT, "SINTONIA_FAILPOINT": failpoint}).start()
    try:
        job = wait_for_job(server.client, create_job(server.client).id)
        assert marker.exists(), f"{point} was never reached"
        assert_as_if_nothing_happened(server.client, job, expected)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_kill_at_a_random_moment_loses_nothing(moment, home, expected):
    numbers = random.Random(moment)
    victim = VICTIMS[moment % len(VICTIMS)]
    server = LiveServer(home, ENVIRONMENT).start()
    try:
        job_id = create_job(server.client).id
        time.sleep(numbers.uniform(0.0, 6.0))
        if victim == "serve":
            server.kill()
            server.start()
        else:
            pid = server.child_pid(victim)
            if pid is not None:  # a trainer may not have begun, or may have ended
                os.kill(pid, signal.SIGKILL)
        job = wait_for_job(server.client, job_id)
        assert_as_if_nothing_happened(server.client, job, expected)
    finally:
        server.stop()
