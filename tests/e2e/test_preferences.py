"""From pairs of answers to a model that prefers, through the unmodified SDK."""

from __future__ import annotations

import json

import pytest
from live import LiveServer, chat_rows, home_with_tiny, result_rows, wait_for_job


def pairs(count: int, start: int = 0) -> bytes:
    rows = []
    for number in range(start, start + count):
        question = {"role": "user", "content": f"Say {'very ' * (number % 3)}{number}"}
        rows.append(
            {
                "input": {"messages": [{"role": "system", "content": "Answer."}, question]},
                "preferred_output": [{"role": "assistant", "content": f"Yes {number}!"}],
                "non_preferred_output": [{"role": "assistant", "content": "No. " * 3}],
            }
        )
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture(scope="module")
def client(tiny_home, tmp_path_factory):
    live = LiveServer(home_with_tiny(tiny_home, tmp_path_factory.mktemp("live"))).start()
    yield live.client
    live.stop()


def upload(client, content: bytes) -> str:
    file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    assert file.status == "processed", file.status_details
    return file.id


def create_job(client, training: bytes, method, model="tiny"):
    return client.fine_tuning.jobs.create(
        model=model,
        training_file=upload(client, training),
        validation_file=upload(client, pairs(10, 90)),
        method=method,
        seed=11,
    )


@pytest.fixture(scope="module")
def job(client):
    chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 100, "beta": 0.5}
    made = create_job(client, pairs(16), {"type": "dpo", "dpo": {"hyperparameters": chosen}})
    assert made.hyperparameters is None
    assert made.method.dpo.hyperparameters.beta == 0.5
    ended = wait_for_job(client, made.id)
    assert ended.status == "succeeded", ended.error
    return ended


def test_a_job_learns_what_is_preferred_and_says_so(client, job):
    assert job.method.type == "dpo"
    assert job.method.dpo.hyperparameters.n_epochs == 3
    assert job.sintonia["origins"]["beta"] == "given"
    assert job.sintonia["settings"]["label_smoothing"] == 0
    (checkpoint, *_) = client.fine_tuning.jobs.checkpoints.list(job.id).data
    metrics = checkpoint.metrics.to_dict()
    assert metrics["full_valid_reward_margin"] > 0
    assert metrics["full_valid_reward_accuracy"] > 0.5
    rows = result_rows(client, job)
    assert float(rows[0]["train_loss"]) == pytest.approx(0.6931, abs=2e-3)
    assert float(rows[-1]["train_loss"]) < 0.6
    assert float(rows[-1]["train_reward_margin"]) > 0
    question = [{"role": "user", "content": "Say 3"}]
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=question, max_tokens=4
    )
    assert answer.model == job.fine_tuned_model


def test_a_tuned_model_learns_on_from_itself(client, job):
    again = create_job(client, pairs(16), {"type": "dpo"}, model=job.fine_tuned_model)
    ended = wait_for_job(client, again.id)
    assert ended.status == "succeeded", ended.error
    assert ended.method.dpo.hyperparameters.beta == 0.1
    assert ended.sintonia["origins"]["beta"] == "default"
    assert float(result_rows(client, ended)[0]["train_loss"]) == pytest.approx(0.6931, abs=2e-3)


@pytest.mark.parametrize(
    ("training", "method", "words"),
    [
        (pairs(12), "supervised", "fine-tune-preference format, but the specified fine-tuning job"),
        (chat_rows(12), "dpo", "is not using 'supervised' as the training method (provided"),
    ],
)
def test_a_file_of_another_method_fails_its_job_in_words(client, training, method, words):
    ended = wait_for_job(client, create_job(client, training, {"type": method}).id)
    assert (ended.status, ended.error.code) == ("failed", "invalid_training_file")
    assert ended.error.param == "training_file"
    assert words in ended.error.message
