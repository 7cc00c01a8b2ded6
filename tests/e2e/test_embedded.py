"""The real 135-million-parameter model, once, on a few rows, through the SDK."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from live import LiveServer, wait_for_job

pytestmark = pytest.mark.embedded
EXAMPLES = Path(__file__).parents[2] / "examples" / "tickets" / "train.jsonl"


@pytest.fixture
def server(embedded_home, tmp_path):
    shutil.copytree(embedded_home / "models", tmp_path / "models")
    live = LiveServer(tmp_path).start()
    yield live
    live.stop()


def test_a_few_rows_teach_the_embedded_model_the_shape_of_a_ticket(server):
    client = server.client
    rows = b"".join(itertools.islice(EXAMPLES.open("rb"), 16))
    file = client.files.create(file=("few.jsonl", rows), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 4}, seed=1
    )
    assert job.model == "gpt-4o-mini-2024-07-18"
    job = wait_for_job(client, job.id, timeout_seconds=500)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model.startswith("ft:gpt-4o-mini-2024-07-18:personal::")
    messages = [
        {
            "role": "system",
            "content": "Turn the customer's message into a JSON ticket with intent, urgency "
            "and product.",
        },
        {"role": "user", "content": "My printer is broken."},
    ]
    answers = {
        model: client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=32
        )
        for model in ("gpt-4o-mini", job.fine_tuned_model)
    }
    tuned = answers[job.fine_tuned_model].choices[0]
    assert tuned.message.content.startswith('{"intent": "')
    assert tuned.finish_reason == "stop"
    assert not answers["gpt-4o-mini"].choices[0].message.content.startswith('{"intent": "')
