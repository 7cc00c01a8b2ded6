"""Batches with the unmodified client against a live server, kills and stops included."""

from __future__ import annotations

import os
import signal
import time

import pytest
from batch_kit import (
    assert_each_answered_once,
    create_batch,
    is_bad,
    lines,
    request,
    wait_for_batch,
)
from live import LiveServer, home_with_tiny

COUNT = 200
ENVIRONMENT = {"SINTONIA_ENGINE": "echo", "SINTONIA_BATCH_SLOTS": "4"}


@pytest.fixture
def server(tiny_home, tmp_path):
    server = LiveServer(home_with_tiny(tiny_home, tmp_path / "home"), ENVIRONMENT).start()
    yield server
    server.stop()


def wait_until_under_way(client, batch_id: str) -> None:
    deadline = time.monotonic() + 60
    while not client.batches.retrieve(batch_id).request_counts.completed:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_hundred_requests_some_of_them_bad(server):
    client = server.client
    batch = create_batch(client, COUNT, metadata={"night": "1"})
    assert (batch.status, batch.metadata) == ("validating", {"night": "1"})
    done = wait_for_batch(client, batch.id)
    assert_each_answered_once(client, done, COUNT, server.home)
    body = lines(client, done.output_file_id)["r-3"]["response"]["body"]
    direct = client.chat.completions.create(**request(3)["body"])
    assert body["choices"] == direct.model_dump(mode="json", exclude_unset=True)["choices"]
    assert [listed.id for listed in client.batches.list(limit=1)] == [batch.id]


def test_a_killed_api_process_goes_on_where_it_was(server):
    client = server.client
    batch = create_batch(client, COUNT)
    wait_until_under_way(client, batch.id)
    os.kill(server.child_pid("sintonia.api"), signal.SIGKILL)
    assert_each_answered_once(client, wait_for_batch(client, batch.id), COUNT, server.home)


def test_a_stopped_server_goes_on_when_it_is_started_again(server):
    batch = create_batch(server.client, COUNT)
    wait_until_under_way(server.client, batch.id)
    server.stop()
    assert (server.home / "batches" / batch.id).is_dir(), "it was done before the server stopped"
    server.start()
    client = server.client
    assert_each_answered_once(client, wait_for_batch(client, batch.id), COUNT, server.home)


def test_a_killed_engine_costs_no_request(server):
    client = server.client
    batch = create_batch(client, COUNT)
    wait_until_under_way(client, batch.id)
    os.kill(server.child_pid("sintonia.generation.host"), signal.SIGKILL)
    assert_each_answered_once(client, wait_for_batch(client, batch.id), COUNT, server.home)


def test_a_cancelled_batch_ends_within_seconds_with_what_was_done(server):
    client = server.client
    batch = create_batch(client, 2000)
    wait_until_under_way(client, batch.id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = wait_for_batch(client, batch.id, timeout_seconds=10)
    assert done.status == "cancelled"
    output, errors = lines(client, done.output_file_id), lines(client, done.error_file_id)
    assert set(output) | set(errors) == {f"r-{n}" for n in range(2000)}
    assert 0 < len(output) < 1800
    reasons = {line["error"]["code"] for line in errors.values() if line["error"]}
    assert reasons == {"batch_cancelled"}
    assert all(line["error"] or is_bad(int(id_[2:])) for id_, line in errors.items())
