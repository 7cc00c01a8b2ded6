"""Full tuning through the live server: a model of its own answers and is tuned further."""

from __future__ import annotations

from pathlib import Path

import pytest
from live import LiveServer, create_job, home_with_tiny, wait_for_job

from sintonia.runs.spec import read_spec


@pytest.fixture(scope="module")
def server(tiny_home, tmp_path_factory):
    live = LiveServer(home_with_tiny(tiny_home, tmp_path_factory.mktemp("live"))).start()
    yield live
    live.stop()


def tune(client, **options):
    made = create_job(client, **options)
    job = wait_for_job(client, made.id)
    assert job.status == "succeeded", job.error
    return job


def ask(client, model: str) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": "Answer."}, {"role": "user", "content": "Say 3"}],
        max_tokens=8,
        temperature=0,
    )
    assert answer.model == model
    return answer.choices[0].message.content


def test_a_whole_model_answers_and_is_the_base_of_the_next(server):
    client = server.client
    whole = tune(client, extra_body={"sintonia": {"tuning": "full"}})
    folder = server.home / "models" / "tuned" / whole.id
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter_config.json").exists()
    ask(client, whole.fine_tuned_model)
    checkpoint = client.fine_tuning.jobs.checkpoints.list(whole.id).data[-1]
    ask(client, checkpoint.fine_tuned_model_checkpoint)

    again = tune(client, model=whole.fine_tuned_model)
    spec = read_spec(server.home / "runs" / again.id / "spec.json")
    assert Path(spec.base.folder) == folder
    assert spec.lora is None, "it goes on as it began"
    adapter = tune(
        client, model=whole.fine_tuned_model, extra_body={"sintonia": {"tuning": "lora"}}
    )
    served = server.home / "models" / "tuned" / adapter.id
    assert (served / "adapter_config.json").is_file()
    told = ask(client, adapter.fine_tuned_model)

    client.models.delete(whole.fine_tuned_model)
    assert ask(client, adapter.fine_tuned_model) == told, "its base is kept for it"
