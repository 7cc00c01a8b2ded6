"""Fine-tuning jobs: created, followed to their end, listed, paused, cancelled."""

from __future__ import annotations

import csv
import io
import re

import pytest

from conformance.calls import end, make_long_job, wait_until

TUNED = re.compile(r"^ft:[^:]+:[^:]*:[^:]*:[A-Za-z0-9]{8}(:ckpt-step-\d+)?$")
CREATE = "POST /fine_tuning/jobs"
RETRIEVE = "GET /fine_tuning/jobs/{fine_tuning_job_id}"
LIST = "GET /fine_tuning/jobs"
CANCEL = "POST /fine_tuning/jobs/{fine_tuning_job_id}/cancel"
PAUSE = "POST /fine_tuning/jobs/{fine_tuning_job_id}/pause"
RESUME = "POST /fine_tuning/jobs/{fine_tuning_job_id}/resume"
EVENTS = "GET /fine_tuning/jobs/{fine_tuning_job_id}/events"
CHECKPOINTS = "GET /fine_tuning/jobs/{fine_tuning_job_id}/checkpoints"


@pytest.mark.endpoint(CREATE)
def test_a_new_job_waits_with_everything_undecided(long_job, long_file):
    assert re.fullmatch(r"ftjob-[A-Za-z0-9]{24}", long_job["id"])
    assert long_job["status"] == "validating_files"
    assert long_job["training_file"] == long_file
    assert long_job["fine_tuned_model"] is None
    assert long_job["finished_at"] is None
    assert long_job["result_files"] == []
    assert long_job["hyperparameters"]["learning_rate_multiplier"] == "auto"
    assert long_job["hyperparameters"]["n_epochs"] == 50
    assert 0 <= long_job["seed"] < 2**31


@pytest.mark.endpoint(CREATE)
def test_null_means_left_out(wire, model, chat_file):
    options = ("validation_file", "suffix", "seed", "metadata", "integrations", "method")
    body = {"model": model, "training_file": chat_file, **dict.fromkeys(options)}
    job = wire.post("/fine_tuning/jobs", json=body).json()
    assert job["validation_file"] is None
    wire.post(f"/fine_tuning/jobs/{job['id']}/cancel")


@pytest.mark.endpoint(CREATE)
def test_a_dpo_job_has_its_hyperparameters_in_its_method(wire, preference_job):
    assert preference_job["method"]["dpo"]["hyperparameters"]["beta"] == 0.1
    assert preference_job["method"]["dpo"]["hyperparameters"]["n_epochs"] == 1
    path = f"/fine_tuning/jobs/{preference_job['id']}/checkpoints"
    assert wire.get(path).json()["data"]


@pytest.mark.endpoint(CREATE)
@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {str(n): "v" for n in range(17)}},
        {"metadata": {"k": 1}},
        {"suffix": "s" * 65},
        {"seed": -1},
    ],
    ids=["long key", "long value", "many pairs", "a number", "long suffix", "negative seed"],
)
def test_a_field_past_its_bounds_is_named(wire, model, chat_file, wrong):
    body = {"model": model, "training_file": chat_file, **wrong}
    error = wire.refused("POST", "/fine_tuning/jobs", 400, json=body)
    assert error["param"].startswith(next(iter(wrong)))


@pytest.mark.endpoint(RETRIEVE)
def test_a_job_that_succeeded_has_all_that_scripts_read(ended_job):
    assert TUNED.match(ended_job["fine_tuned_model"])
    assert ":conform:" in ended_job["fine_tuned_model"]
    assert ended_job["trained_tokens"] > 0
    assert ended_job["finished_at"] >= ended_job["created_at"]
    assert ended_job["hyperparameters"]["n_epochs"] == 3
    assert ended_job["seed"] == 7
    assert ended_job["metadata"] == {"team": "conformance"}
    error = ended_job["error"]
    assert not error or set(error.values()) == {None}


@pytest.mark.endpoint(RETRIEVE)
def test_an_unknown_job_is_not_found(wire):
    error = wire.refused("GET", "/fine_tuning/jobs/ftjob-none", 404)
    assert error["message"] == "Could not find fine tune: ftjob-none"
    assert (error["type"], error["code"]) == ("invalid_request_error", None)


@pytest.mark.endpoint(RETRIEVE)
def test_the_result_file_is_csv_with_each_step_once(wire, ended_job):
    file_id = ended_job["result_files"][0]
    assert wire.get(f"/files/{file_id}").json()["purpose"] == "fine-tune-results"
    text = wire.get(f"/files/{file_id}/content").text
    rows = list(csv.DictReader(io.StringIO(text)))
    header = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert list(rows[0]) == header
    assert [int(row["step"]) for row in rows] == list(range(1, 10))


@pytest.mark.endpoint(LIST)
def test_jobs_are_listed_newest_first_and_page_by_page(wire, ended_job, model, chat_file):
    body = {"model": model, "training_file": chat_file}
    made = [wire.post("/fine_tuning/jobs", json=body).json()["id"] for _ in range(2)]
    for job_id in made:
        wire.post(f"/fine_tuning/jobs/{job_id}/cancel")
    listed = [job["id"] for job in wire.pages("/fine_tuning/jobs", limit=1)]
    assert listed[:2] == made[::-1]
    assert ended_job["id"] in listed
    assert len(listed) == len(set(listed))


@pytest.mark.endpoint(LIST)
def test_jobs_are_found_by_their_metadata(wire, ended_job):
    def found(query):
        return [j["id"] for j in wire.get("/fine_tuning/jobs", params=query).json()["data"]]

    assert ended_job["id"] in found({"metadata[team]": "conformance"})
    assert found({"metadata[team]": "nobody"}) == []
    assert ended_job["id"] not in found({"metadata": "null"})


@pytest.mark.endpoint(EVENTS)
def test_events_tell_the_job_newest_first_and_page_by_page(wire, ended_job):
    path = f"/fine_tuning/jobs/{ended_job['id']}/events"
    events = list(wire.pages(path, limit=4))
    messages = [event["message"] for event in reversed(events)]
    told = [
        f"Created fine-tuning job: {ended_job['id']}",
        (
            f"Validating training file: {ended_job['training_file']} "
            f"and validation file: {ended_job['validation_file']}"
        ),
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"New fine-tuned model created: {ended_job['fine_tuned_model']}",
        "The job has successfully completed",
    ]
    assert [message for message in messages if message in told] == told
    assert len({event["id"] for event in events}) == len(events)
    assert all(event["id"].startswith("ftevent-") for event in events)


@pytest.mark.endpoint(EVENTS)
def test_each_step_is_an_event_with_its_metrics(wire, ended_job):
    path = f"/fine_tuning/jobs/{ended_job['id']}/events"
    metrics = [event for event in wire.pages(path, limit=100) if event["type"] == "metrics"]
    assert [event["data"]["step"] for event in reversed(metrics)] == list(range(1, 10))
    first = metrics[-1]
    assert re.match(r"Step 1/9: training loss=\d+\.\d\d", first["message"])
    assert {"step", "train_loss", "train_mean_token_accuracy"} <= set(first["data"])


@pytest.mark.endpoint(CHECKPOINTS)
def test_checkpoints_are_the_last_epochs_highest_step_first(wire, ended_job):
    path = f"/fine_tuning/jobs/{ended_job['id']}/checkpoints"
    checkpoints = list(wire.pages(path, limit=1))
    assert [c["step_number"] for c in checkpoints] == [9, 6, 3]
    for checkpoint in checkpoints:
        assert checkpoint["id"].startswith("ftckpt_")
        assert TUNED.match(checkpoint["fine_tuned_model_checkpoint"])
        assert checkpoint["metrics"]["full_valid_loss"] > 0


@pytest.mark.endpoint(EVENTS)
def test_events_of_an_unknown_job_are_not_found(wire):
    wire.refused("GET", "/fine_tuning/jobs/ftjob-none/events", 404)


@pytest.mark.endpoint(LIST)
def test_a_list_after_an_unknown_id_is_refused(wire):
    assert wire.refused("GET", "/fine_tuning/jobs", 400, params={"after": "ftjob-none"})


@pytest.fixture(scope="module")
def paused_job(wire, model, long_file, job_seconds):
    """What a running job answered when it was to pause, and the job once it rested."""
    made = make_long_job(wire, model, long_file)
    path = f"/fine_tuning/jobs/{made['id']}"
    events = f"{path}/events"
    wait_until(wire, events, lambda page: page["data"][0]["type"] == "metrics", job_seconds)
    wire.refused("POST", f"{path}/resume", 400)
    answer = wire.post(f"{path}/pause").json()
    yield answer, wait_until(wire, path, lambda job: job["status"] == "paused", job_seconds)
    end(wire, made)


@pytest.mark.endpoint(PAUSE)
def test_a_running_job_pauses(paused_job):
    answer, job = paused_job
    assert answer["status"] in {"pausing", "paused"}
    assert job["finished_at"] is None


@pytest.mark.endpoint(PAUSE)
def test_a_job_that_has_ended_does_not_pause(wire, ended_job):
    wire.refused("POST", f"/fine_tuning/jobs/{ended_job['id']}/pause", 400)


@pytest.mark.endpoint(RESUME)
def test_a_paused_job_is_queued_again(wire, paused_job):
    _, job = paused_job
    path = f"/fine_tuning/jobs/{job['id']}"
    assert wire.post(f"{path}/resume").json()["status"] == "queued"


@pytest.mark.endpoint(CANCEL)
def test_a_job_is_cancelled_once(wire, long_job):
    path = f"/fine_tuning/jobs/{long_job['id']}/cancel"
    assert wire.post(path).json()["status"] == "cancelled"
    assert "already completed" in wire.refused("POST", path, 400)["message"]
