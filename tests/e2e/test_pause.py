"""A job is paused and resumed through the unmodified SDK, over a restart of the server."""

from __future__ import annotations

import csv
import io

from live import LiveServer, chat_rows, home_with_tiny, wait_for_job

from tiny_models import wait_until

ENVIRONMENT = {"SINTONIA_THREADS": "1", "SINTONIA_ENGINE": "echo"}
STEPS = 120


def create(client):
    training = client.files.create(file=("train.jsonl", chat_rows(48)), purpose="fine-tune")
    validation = client.files.create(file=("valid.jsonl", chat_rows(4, 90)), purpose="fine-tune")
    hyperparameters = {"n_epochs": 10, "batch_size": 4}
    return client.fine_tuning.jobs.create(
        model="tiny",
        seed=11,
        training_file=training.id,
        validation_file=validation.id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )


def measured(client, job_id: str) -> list[tuple]:
    """Return what each step measured, as often as it is told; to the bit."""
    events = client.fine_tuning.jobs.list_events(job_id, limit=100)
    data = [event.data for event in events if event.type == "metrics"]
    return sorted((d["step"], d["train_loss"], d.get("full_valid_loss", -1.0)) for d in data)


def test_a_paused_job_rests_over_a_restart_and_ends_as_if_it_had_not(tiny_home, tmp_path):
    server = LiveServer(home_with_tiny(tiny_home, tmp_path / "home"), ENVIRONMENT).start()
    try:
        client = server.client
        job_id = create(client).id
        wait_until(lambda: measured(client, job_id))
        assert client.fine_tuning.jobs.pause(job_id).status in {"pausing", "paused"}
        wait_until(lambda: client.fine_tuning.jobs.retrieve(job_id).status == "paused")
        done = measured(client, job_id)
        assert 0 < len(done) < STEPS
        server.stop()
        client = server.start().client
        other = wait_for_job(client, create(client).id)
        assert other.status == "succeeded", "the place of the paused job is free"
        assert client.fine_tuning.jobs.retrieve(job_id).status == "paused"
        assert measured(client, job_id) == done, "the step that it was in is told, and no more"
        assert client.fine_tuning.jobs.resume(job_id).status == "queued"
        job = wait_for_job(client, job_id)
        assert job.status == "succeeded", job.error
        expected = measured(client, other.id)
        assert [step for step, *_ in expected] == list(range(1, STEPS + 1))
        assert measured(client, job_id) == expected
        events = [e.message for e in client.fine_tuning.jobs.list_events(job_id, limit=100)]
        assert f"Fine-tuning job paused after step {len(done)}" in events
        assert f"Training resumed after step {len(done)}" in events
        assert job.sintonia["verdict"]["message"] in events
        tables = [client.files.content(file_id).text for file_id in job.result_files]
        names = [client.files.retrieve(file_id).filename for file_id in job.result_files]
        assert names == ["step_metrics.csv", "row_losses.csv"]
        rows = list(csv.DictReader(io.StringIO(tables[1])))
        assert len(rows) == 48 + 4
        others = [client.files.content(file_id).text for file_id in other.result_files]
        assert tables == others, "rows too are told as if nothing had happened"
    finally:
        server.stop()
