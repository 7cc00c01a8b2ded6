"""From a JSONL file to a tuned model that answers, through the unmodified SDK."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from live import LiveServer, chat_rows, create_job, home_with_tiny, result_rows, wait_for_job
from openai import BadRequestError, NotFoundError

from tiny_models import wait_until

TUNED = re.compile(r"^ft:[^:]+:[^:]*:[^:]*:[A-Za-z0-9]{8}(:ckpt-step-\d+)?$")


@pytest.fixture(scope="module")
def server(tiny_home, tmp_path_factory):
    live = LiveServer(home_with_tiny(tiny_home, tmp_path_factory.mktemp("live"))).start()
    yield live
    live.stop()


@pytest.fixture(scope="module")
def client(server):
    return server.client


@pytest.fixture(scope="module")
def job(client):
    made = create_job(client, metadata={"team": "e2e"})
    assert made.status == "validating_files"
    assert made.hyperparameters.n_epochs == 3
    ended = wait_for_job(client, made.id)
    assert ended.status == "succeeded", ended.error
    return ended


def ask(client, model: str, **options):
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Say 3"}]
    given = {"max_tokens": 8, "temperature": 0, **options}
    return client.chat.completions.create(model=model, messages=messages, **given)


def test_a_job_ends_with_everything_that_scripts_read(client, job):
    assert TUNED.match(job.fine_tuned_model)
    assert ":e2e:" in job.fine_tuned_model
    assert job.trained_tokens > 0
    assert job.finished_at >= job.created_at
    assert job.hyperparameters.batch_size == 4
    assert job.error is None or job.error.code is None
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    messages = [event.message for event in reversed(events)]
    assert messages[0] == f"Created fine-tuning job: {job.id}"
    assert messages[1].startswith("Validating training file: file-")
    order = ["Files validated, moving job to queued state", "Fine-tuning job started"]
    order += [f"New fine-tuned model created: {job.fine_tuned_model}"]
    order += ["The job has successfully completed"]
    assert [m for m in messages if m in order] == order
    steps = [event.data["step"] for event in reversed(events) if event.type == "metrics"]
    assert steps == list(range(1, 13))


def test_the_result_file_has_each_step_once(client, job):
    rows = result_rows(client, job)
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    header = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert list(rows[0]) == header
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_checkpoints_are_listed_and_answer(client, job):
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [c.step_number for c in checkpoints] == [12, 8, 4]
    assert checkpoints[0].metrics.full_valid_loss > 0
    name = checkpoints[1].fine_tuned_model_checkpoint
    assert TUNED.match(name)
    assert ask(client, name).model == name


def test_tuned_and_base_answer_differently_and_each_the_same_again(client, job):
    tuned = ask(client, job.fine_tuned_model)
    base = ask(client, "tiny")
    assert tuned.choices[0].message.content != base.choices[0].message.content
    again = ask(client, job.fine_tuned_model)
    assert again.choices[0].message.content == tuned.choices[0].message.content
    stream = ask(client, job.fine_tuned_model, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text == tuned.choices[0].message.content


def test_a_tuned_model_keeps_card_tokenizer_and_template(server, client, job):
    (folder,) = [p for p in (server.home / "models" / "tuned").iterdir() if "step" not in p.name]
    card = json.loads((folder / "model_card.json").read_text())
    assert card["run"] == job.id
    assert card["settings"]["seed"] == 11
    assert card["origins"]["batch_size"] == "given"
    assert not (folder / "state.safetensors").exists()


def test_training_goes_on_from_a_tuned_model(client, job):
    again = create_job(client, model=job.fine_tuned_model, suffix="more")
    ended = wait_for_job(client, again.id)
    assert ended.status == "succeeded", ended.error
    assert ended.fine_tuned_model.startswith("ft:tiny:")
    first = float(result_rows(client, ended)[0]["train_loss"])
    assert first < float(result_rows(client, job)[0]["train_loss"])


def test_a_changed_template_is_refused_not_answered_with(server, client, job):
    name = client.fine_tuning.jobs.checkpoints.list(job.id).data[2].fine_tuned_model_checkpoint
    (folder,) = (server.home / "models" / "tuned").glob(f"{job.id}-step-4")
    template = folder / "chat_template.jinja"
    template.chmod(0o644)
    template.write_text(template.read_text() + " ")
    with pytest.raises(BadRequestError, match="template is not the one it was trained with"):
        ask(client, name)


def test_a_running_job_is_cancelled_and_its_trainer_ends(server, client):
    training = client.files.create(file=("long.jsonl", chat_rows(200)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training.id,
        hyperparameters={"n_epochs": 50, "batch_size": 1},
    )
    wait_until(
        lambda: len(client.fine_tuning.jobs.list_events(job.id, limit=20).data) > 8,
        timeout_seconds=60,
    )
    assert client.fine_tuning.jobs.retrieve(job.id).estimated_finish
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_until(lambda: server.child_pid("sintonia.training.run") is None, timeout_seconds=30)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    with pytest.raises(BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)


def test_a_waiting_job_shows_its_place(client):
    jobs = [create_job(client) for _ in range(3)]
    wait_until(
        lambda: all(
            client.fine_tuning.jobs.retrieve(j.id).status != "validating_files" for j in jobs
        ),
        timeout_seconds=60,
    )
    behind = client.fine_tuning.jobs.retrieve(jobs[2].id).model_extra["sintonia"]["waiting_behind"]
    assert behind >= 1
    for waiting in jobs:
        client.fine_tuning.jobs.cancel(waiting.id)


def test_a_bad_row_fails_the_job_by_its_number(client):
    rows = chat_rows(12).replace(b'"role": "user"', b'"role": "bot"', 1)
    bad = client.files.create(file=("bad.jsonl", rows), purpose="fine-tune")
    assert bad.status == "error"
    assert "Example 1" in bad.status_details
    with pytest.raises(BadRequestError, match="Example 1"):
        client.fine_tuning.jobs.create(model="tiny", training_file=bad.id)


def test_a_deleted_model_is_gone(client, job):
    again = create_job(client, suffix="gone")
    ended = wait_for_job(client, again.id)
    assert client.models.delete(ended.fine_tuned_model).deleted
    with pytest.raises(NotFoundError) as refused:
        ask(client, ended.fine_tuned_model)
    assert refused.value.code == "model_not_found"


def test_the_home_holds_no_stray_files(server):
    assert not list(Path(server.home).rglob("*.tmp"))


def test_a_row_longer_than_the_context_is_refused_by_row_unless_it_may_be_cut(client):
    long_row = {"messages": [{"role": "user", "content": "Say"}]}
    long_row["messages"].append({"role": "assistant", "content": "x" * 600})
    rows = chat_rows(12) + b"\n" + json.dumps(long_row).encode()
    file = client.files.create(file=("long.jsonl", rows), purpose="fine-tune")
    refused = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    error = wait_for_job(client, refused.id).error
    assert error.code == "invalid_training_file"
    assert "Example 13" in error.message
    assert "512" in error.message
    cut = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        hyperparameters={"n_epochs": 1},
        extra_body={"sintonia": {"truncate": True}},
    )
    assert wait_for_job(client, cut.id).status == "succeeded"
