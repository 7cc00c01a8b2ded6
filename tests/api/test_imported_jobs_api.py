"""Jobs that were brought over, through the API and with our own beside them."""

from __future__ import annotations

import base64

import pytest
from api_calls import error_of, rows, upload

from sintonia import ids
from sintonia.domain.files import FilePurpose
from sintonia.domain.imported import ImportedJob, Item, ItemKind, ItemState
from sintonia.domain.models import Model, ModelKind

JOB = "ftjob-theirs"
RAW = {
    "object": "fine_tuning.job",
    "id": JOB,
    "model": "o4-mini-2025-04-16",
    "created_at": 1_600_000_000,
    "status": "running",
    "method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "python"}}},
    "hyperparameters": None,
    "training_file": "file-gone",
    "result_files": ["file-r"],
    "metadata": {"team": "a"},
}
EVENTS = [
    {"id": f"ftevent-{n}", "object": "fine_tuning.job.event", "message": f"Step {n}", "x": n}
    for n in (3, 2, 1)
]
CHECKPOINT = {"id": "ftckpt_1", "step_number": 3, "metrics": {"step": 3, "other": {"deep": 1}}}


@pytest.fixture
def imported(services):
    item = Item(ItemKind.JOB, JOB, "https://x/v1", ItemState.DONE, RAW)
    job = ImportedJob(JOB, RAW["created_at"], "https://x/v1", RAW)
    services.store.manifest.keep_job(item, job, EVENTS, [CHECKPOINT])
    return JOB


def create(client, **options):
    body = {"model": "tiny", "training_file": upload(client, rows())["id"], **options}
    return client.post("/v1/fine_tuning/jobs", json=body).json()["id"]


def test_it_is_shown_as_it_came(client, imported):
    shown = client.get(f"/v1/fine_tuning/jobs/{imported}").json()
    assert shown.pop("sintonia") == {"imported_from": "https://x/v1"}
    assert {name: shown[name] for name in RAW} == RAW
    assert (shown["finished_at"], shown["seed"], shown["error"]) == (None, None, None)


def test_it_pages_in_one_list_with_ours(client, imported):
    own = [create(client) for _ in range(2)]
    listed, after = [], {}
    for _ in range(3):
        page = client.get("/v1/fine_tuning/jobs", params={"limit": 1, **after}).json()
        listed += [job["id"] for job in page["data"]]
        after = {"after": listed[-1]}
    assert listed == [*own[::-1], imported]
    assert page["has_more"] is False
    found = client.get("/v1/fine_tuning/jobs", params={"metadata[team]": "a"}).json()["data"]
    assert [job["id"] for job in found] == [imported]


def test_its_events_and_checkpoints_page_newest_first(client, imported):
    place = f"/v1/fine_tuning/jobs/{imported}"
    first = client.get(f"{place}/events", params={"limit": 2}).json()
    assert (first["data"], first["has_more"]) == (EVENTS[:2], True)
    rest = client.get(f"{place}/events", params={"after": "ftevent-2"}).json()
    assert (rest["data"], rest["has_more"]) == (EVENTS[2:], False)
    checkpoints = client.get(f"{place}/checkpoints").json()
    assert (checkpoints["data"], checkpoints["first_id"]) == ([CHECKPOINT], "ftckpt_1")
    error_of(client.get(f"{place}/events", params={"after": "x"}), 400, "invalid_value", "after")


@pytest.mark.parametrize("order", ["cancel", "pause", "resume"])
def test_no_order_moves_it(order, client, imported):
    answer = client.post(f"/v1/fine_tuning/jobs/{imported}/{order}")
    message = error_of(answer, 400, None, "fine_tuning_job_id")
    assert "never runs" in message
    assert f"`sintonia migrate rerun {imported}`" in message
    assert client.get(f"/v1/fine_tuning/jobs/{imported}").json()["status"] == "running"
    unknown = client.post(f"/v1/fine_tuning/jobs/ftjob-none/{order}")
    error_of(unknown, 404, None, "fine_tuning_job_id")


def test_results_in_base64_are_read_as_plain(client, services):
    csv = b"step,train_loss\n" + b"1,0.5\n" * 200_000
    plain, wrapped = base64.b64encode(csv), base64.encodebytes(csv)
    for content in (csv, plain, wrapped):
        file = services.store.files.create(
            filename="r.csv", purpose=FilePurpose.FINE_TUNE_RESULTS, content=[content[:150_000]]
        )
        got = client.get(f"/v1/files/{file.id}/content").content
        assert csv.startswith(got)
        assert len(got) > 100_000


def test_a_name_is_taken_over_once_the_new_model_is_there(client, services, tuned):
    old, job_id = "ft:gpt-4o-mini:acme::theirs00", create(client)
    services.store.models.take_name(old, job_id)
    error_of(client.get(f"/v1/models/{old}"), 404, "model_not_found", "model")
    made = services.store.models.get(tuned)
    services.store.models.add(
        Model(
            f"ft:tiny:personal::{ids.new_model_suffix()}",
            ModelKind.TUNED,
            1,
            "me",
            made.base,
            made.folder,
            made.adapter_sha256,
            job_id,
        )
    )
    body = {"model": old, "messages": [{"role": "user", "content": "hi"}]}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["model"].startswith("ft:tiny:personal::"), "who really spoke"
    assert client.delete(f"/v1/models/{old}").json()["deleted"] is True
    error_of(client.get(f"/v1/models/{old}"), 404, "model_not_found", "model")
    assert client.get(f"/v1/models/{answer['model']}").status_code == 200
