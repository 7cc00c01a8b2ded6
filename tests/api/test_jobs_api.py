"""Fine-tuning jobs over HTTP."""

from __future__ import annotations

import time

import pytest
from api_calls import TUNED, error_of, register_tuned, rows, upload

from sintonia.domain.jobs import JobDraft
from sintonia.domain.models import ModelKind

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def file_id(client) -> str:
    return upload(client)["id"]


def dpo(**hyperparameters):
    return {"method": {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}}


def create(client, file_id, **parameters):
    body = {"model": "gpt-tiny", "training_file": file_id, **parameters}
    return client.post(JOBS, json=body)


def test_a_new_job_has_every_field_of_openais(client, file_id):
    job = create(client, file_id, suffix="my-tickets", seed=7, metadata={"team": "a"}).json()
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job.pop("id").startswith("ftjob-")
    assert abs(job.pop("created_at") - time.time()) < 60
    assert job == {
        "object": "fine_tuning.job",
        "finished_at": None,
        "estimated_finish": None,
        "model": "gpt-tiny",
        "fine_tuned_model": None,
        "organization_id": "org-personal",
        "status": "validating_files",
        "hyperparameters": auto,
        "method": {"type": "supervised", "supervised": {"hyperparameters": auto}},
        "training_file": file_id,
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "error": {"code": None, "message": None, "param": None},
        "user_provided_suffix": "my-tickets",
        "usage_metrics": None,
        "shared_with_openai": False,
        "eval_id": None,
        "seed": 7,
        "integrations": [],
        "metadata": {"team": "a"},
        "sintonia": {
            "waiting_behind": 0,
            "base_model": "tiny",
            "origins": None,
            "asked": {},
            "settings": {},
            "attempt": 0,
            "truncate": False,
            "verdict": None,
        },
    }


def test_a_job_is_stored_with_its_first_event(client, file_id):
    job = create(client, file_id).json()
    assert client.get(f"{JOBS}/{job['id']}").json() == job
    for method in ("GET", "POST"):
        events = client.request(method, f"{JOBS}/{job['id']}/events").json()
        assert events["object"] == "list"
        assert events["has_more"] is False
        (event,) = events["data"]
        assert event["id"].startswith("ftevent-")
        assert event["message"] == f"Created fine-tuning job: {job['id']}"
        assert {k: event[k] for k in ("object", "level", "type", "data")} == {
            "object": "fine_tuning.job.event",
            "level": "info",
            "type": "message",
            "data": {},
        }


def test_the_snapshot_of_an_alias_is_shown(client, file_id):
    job = create(client, file_id, model="gpt-4o-mini").json()
    assert job["model"] == "gpt-4o-mini-2024-07-18"
    assert job["sintonia"]["base_model"] == "smollm2-135m-instruct"


@pytest.mark.parametrize(
    "parameters",
    [
        {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}},
        {"method": {"type": "supervised"}, "hyperparameters": {"n_epochs": 3}},
        {
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
            "hyperparameters": {"n_epochs": 3, "seed": 1},
        },
    ],
)
def test_both_spellings_of_hyperparameters_mean_the_same(client, file_id, parameters):
    job = create(client, file_id, **parameters).json()
    expected = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job["hyperparameters"] == expected
    assert job["method"]["supervised"]["hyperparameters"] == expected


@pytest.mark.parametrize(
    ("method", "beta"),
    [
        ({"type": "dpo"}, "auto"),
        ({"type": "dpo", "dpo": {"hyperparameters": {"beta": "auto"}}}, "auto"),
        ({"type": "dpo", "dpo": {"hyperparameters": {"beta": 2}}}, 2),
        ({"type": "dpo", "dpo": {"beta": 0.2, "l2_multiplier": 0.1}, "supervised": None}, 0.2),
    ],
)
def test_a_job_that_learns_preferences_is_shown_as_openai_shows_it(client, file_id, method, beta):
    answer = create(client, file_id, method=method)
    job = answer.json()
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job["hyperparameters"] is None
    assert job["method"] == {"type": "dpo", "dpo": {"hyperparameters": {**auto, "beta": beta}}}
    ignored = answer.headers.get("sintonia-ignored-parameters", "")
    assert ("l2_multiplier" in ignored) == ("l2_multiplier" in str(method))


def test_null_means_absent_everywhere(client, file_id):
    names = ["validation_file", "hyperparameters", "method", "suffix", "seed", "metadata"]
    names.append("integrations")
    job = create(client, file_id, **dict.fromkeys(names)).json()
    assert job["status"] == "validating_files"
    nulls = {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None}
    nested = {"type": "supervised", "supervised": {"hyperparameters": nulls}, "dpo": None}
    assert create(client, file_id, method=nested).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "model"),
        ({"training_file": None}, "missing_required_parameter", "training_file"),
        ({"model": 7}, "invalid_type", "model"),
        ({"epochs": 3}, "unknown_parameter", "epochs"),
        ({"epochs": None}, "unknown_parameter", "epochs"),
        ({"hyperparameters": {"n_epoch": 3}}, "unknown_parameter", "hyperparameters.n_epoch"),
        (
            {"hyperparameters": {"n_epochs": 0}},
            "integer_below_min_value",
            "hyperparameters.n_epochs",
        ),
        (
            {"hyperparameters": {"n_epochs": 51}},
            "integer_above_max_value",
            "hyperparameters.n_epochs",
        ),
        ({"hyperparameters": {"n_epochs": 1.5}}, "invalid_type", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "invalid_type", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "invalid_value", "hyperparameters.n_epochs"),
        (
            {"hyperparameters": {"batch_size": 257}},
            "integer_above_max_value",
            "hyperparameters.batch_size",
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": 1e300}},
            "decimal_above_max_value",
            "hyperparameters.learning_rate_multiplier",
        ),
        (
            {"hyperparameters": {"batch_size": 2**62}},
            "integer_above_max_value",
            "hyperparameters.batch_size",
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": 0}},
            "decimal_below_min_value",
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": []}, "invalid_type", "hyperparameters"),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"batch_size": 0}},
                }
            },
            "integer_below_min_value",
            "method.supervised.hyperparameters.batch_size",
        ),
        ({"method": {}}, "missing_required_parameter", "method.type"),
        ({"method": {"type": "magic"}}, "invalid_value", "method.type"),
        ({"method": {"type": "reinforcement"}}, "unsupported_parameter", "method.type"),
        ({"method": {"type": "dpo", "supervised": {}}}, "invalid_value", "method.supervised"),
        ({"method": {"type": "supervised", "dpo": {}}}, "invalid_value", "method.dpo"),
        ({"method": {"type": "dpo"}, "hyperparameters": {}}, "invalid_value", "hyperparameters"),
        (dpo(beta=0), "decimal_below_min_value", "method.dpo.hyperparameters.beta"),
        (dpo(beta=2.5), "decimal_above_max_value", "method.dpo.hyperparameters.beta"),
        (dpo(beta=True), "invalid_type", "method.dpo.hyperparameters.beta"),
        (dpo(betta=0.1), "unknown_parameter", "method.dpo.hyperparameters.betta"),
        (dpo(n_epochs=0), "integer_below_min_value", "method.dpo.hyperparameters.n_epochs"),
        (
            {"method": {"type": "dpo", "dpo": {"beta": 0.1, "hyperparameters": {"beta": 0.2}}}},
            "invalid_value",
            "method.dpo.beta",
        ),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"beta": 0.1}},
                }
            },
            "unknown_parameter",
            "method.supervised.hyperparameters.beta",
        ),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"n_epochs": 2}},
                },
                "hyperparameters": {"n_epochs": 3},
            },
            "invalid_value",
            "hyperparameters",
        ),
        ({"suffix": ""}, "string_below_min_length", "suffix"),
        ({"suffix": "x" * 65}, "string_above_max_length", "suffix"),
        ({"suffix": "!!!"}, "invalid_value", "suffix"),
        ({"seed": -1}, "integer_below_min_value", "seed"),
        ({"seed": 2**31}, "integer_above_max_value", "seed"),
        (
            {"metadata": {str(i): "x" for i in range(17)}},
            "object_above_max_properties",
            "metadata",
        ),
        ({"metadata": {"k": "x" * 513}}, "string_above_max_length", "metadata.k"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
        ({"integrations": [{"type": "wandb"}]}, "unsupported_parameter", "integrations"),
        ({"model": "gpt-9"}, "model_not_available", "model"),
        ({"model": "ft:tiny:personal::00000000"}, "model_not_available", "model"),
        ({"training_file": "file-x"}, None, "training_file"),
        ({"validation_file": "file-x"}, None, "validation_file"),
    ],
)
def test_a_bad_parameter_is_400_with_its_name(client, file_id, parameters, code, param):
    error_of(create(client, file_id, **parameters), 400, code, param)
    assert client.get(JOBS).json()["data"] == []


def test_messages_are_openais(client, file_id):
    answer = create(client, file_id, model="gpt-9")
    wording = "Model gpt-9 is not available for fine-tuning or does not exist."
    assert error_of(answer, 400, "model_not_available", "model").startswith(wording)
    answer = create(client, "file-x")
    assert error_of(answer, 400, None, "training_file").startswith("File 'file-x' does not exist")
    answer = create(client, file_id, hyperparameters={"n_epochs": 99})
    assert error_of(answer, 400, "integer_above_max_value", "hyperparameters.n_epochs") == (
        "Invalid 'hyperparameters.n_epochs': integer above maximum value. "
        "Expected a value <= 50, but got 99 instead."
    )


def test_files_of_other_purposes_and_broken_ones_are_refused(client):
    batch = upload(client, purpose="batch")["id"]
    message = error_of(create(client, batch), 400, "invalid_file_purpose", "training_file")
    assert message.startswith(f"File '{batch}' has purpose 'batch', expected 'fine-tune'")
    broken = upload(client, rows(10) + b"{}\n")["id"]
    message = error_of(create(client, broken), 400, "invalid_training_file", "training_file")
    assert "Example 11" in message
    many = upload(client, rows(10) + b"{}\n" * 9)["id"]
    message = error_of(create(client, many), 400, "invalid_training_file", "training_file")
    assert message.count("Example") == 3
    assert "status_details" in message
    good = upload(client)["id"]
    answer = create(client, good, validation_file=broken)
    error_of(answer, 400, "invalid_validation_file", "validation_file")


def test_parameters_of_older_apis_are_accepted_and_named(client, file_id):
    answer = create(
        client, file_id, trainingType="standard", hyperparameters={"prompt_loss_weight": 0.1}
    )
    assert answer.status_code == 200
    ignored = answer.headers["sintonia-ignored-parameters"]
    assert ignored == "trainingType, prompt_loss_weight"


def test_training_continues_from_a_tuned_model_or_a_checkpoint(client, services, file_id, tuned):
    job = create(client, file_id, model=tuned).json()
    assert job["model"] == tuned
    draft = services.store.jobs.get(job["id"]).draft
    assert (draft.base_model, draft.parent_model) == ("tiny", tuned)
    checkpoint = register_tuned(services, f"{TUNED}:ckpt-step-3", ModelKind.CHECKPOINT)
    assert create(client, file_id, model=checkpoint).json()["model"] == checkpoint


def test_jobs_are_listed_newest_first_and_filtered_by_metadata(client, file_id):
    sent = [{"team": "a", "n": "1"}, {"team": "b"}, {"team": "a", "n": "2"}, None]
    ids = [create(client, file_id, metadata=metadata).json()["id"] for metadata in sent]

    def listed(**params):
        return [job["id"] for job in client.get(JOBS, params=params).json()["data"]]

    assert listed() == ids[::-1]
    assert listed(**{"metadata[team]": "a"}) == [ids[2], ids[0]]
    assert listed(**{"metadata[team]": "a", "metadata[n]": "1"}) == [ids[0]]
    assert listed(metadata="null") == [ids[3]]
    assert listed(limit=2, after=ids[3]) == [ids[2], ids[1]]
    page = client.get(JOBS, params={"limit": 2}).json()
    assert set(page) == {"object", "data", "has_more"}
    assert page["has_more"] is True
    error_of(client.get(JOBS, params={"metadata": "x"}), 400, "invalid_value", "metadata")
    error_of(client.get(JOBS, params={"after": "ftjob-x"}), 400, "invalid_value", "after")


def test_a_job_is_cancelled_once(client, file_id):
    job_id = create(client, file_id).json()["id"]
    assert client.post(f"{JOBS}/{job_id}/cancel").json()["status"] == "cancelled"
    message = error_of(client.post(f"{JOBS}/{job_id}/cancel"), 400)
    assert message.startswith("Job has already completed")


def test_what_does_not_run_is_not_paused_and_what_is_not_paused_not_resumed(client, file_id):
    job_id = create(client, file_id).json()["id"]
    message = error_of(client.post(f"{JOBS}/{job_id}/pause"), 400)
    assert "its status is validating_files. Only a job that runs" in message
    message = error_of(client.post(f"{JOBS}/{job_id}/resume"), 400)
    assert "Only a job that is paused" in message


def test_waiting_jobs_tell_their_place(client, file_id):
    ids = [create(client, file_id).json()["id"] for _ in range(3)]
    places = [client.get(f"{JOBS}/{i}").json()["sintonia"]["waiting_behind"] for i in ids]
    assert places == [0, 1, 2]


@pytest.mark.parametrize("path", ["", "/cancel", "/pause", "/resume", "/events", "/checkpoints"])
def test_an_unknown_job_is_404(client, path):
    method = "POST" if path in {"/cancel", "/pause", "/resume"} else "GET"
    answer = client.request(method, f"{JOBS}/ftjob-x{path}")
    message = error_of(answer, 404, None, "fine_tuning_job_id")
    assert message == "Could not find fine tune: ftjob-x"


def test_a_new_job_has_no_checkpoints(client, file_id):
    job_id = create(client, file_id).json()["id"]
    assert client.get(f"{JOBS}/{job_id}/checkpoints").json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_resolved_numbers_and_failures_are_shown(services):
    """What the worker learns later, on facts alone."""
    import dataclasses

    from sintonia.api.translate.jobs import checkpoint_object, job_object
    from sintonia.domain.jobs import Job, JobCheckpoint, JobError, JobStatus

    draft = JobDraft(model="m", base_model="tiny", training_file="file-a")
    job = Job(id="ftjob-a", draft=draft, status=JobStatus.RUNNING, seed=1, created_at=1)
    numbers = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.5}
    shown = job_object(dataclasses.replace(job, resolved=numbers), "personal").model_dump()
    assert shown["hyperparameters"] == numbers
    assert shown["method"]["supervised"]["hyperparameters"] == numbers
    error = JobError("invalid_n_examples", "Training file has 7 example(s)", "training_file")
    failed = job_object(dataclasses.replace(job, error=error), "personal").model_dump()
    assert failed["error"] == dataclasses.asdict(error)
    metrics = {"train_loss": 0.5, "full_valid_loss": 0.25, "tokens_per_second": 9.0}
    checkpoint = JobCheckpoint("ftckpt_a", "ftjob-a", 1, f"{TUNED}:ckpt-step-4", 4, metrics)
    told = checkpoint_object(checkpoint)
    assert '"metrics":{"step":4,"train_loss":0.5,' in told.model_dump_json()
    assert told.model_dump() == {
        "id": "ftckpt_a",
        "object": "fine_tuning.job.checkpoint",
        "created_at": 1,
        "fine_tuned_model_checkpoint": f"{TUNED}:ckpt-step-4",
        "step_number": 4,
        "fine_tuning_job_id": "ftjob-a",
        "metrics": {"step": 4, "train_loss": 0.5, "full_valid_loss": 0.25},
    }
