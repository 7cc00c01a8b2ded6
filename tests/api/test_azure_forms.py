"""Azure's path forms, headers, codes and words, over the same routes as OpenAI's."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

import pytest
from api_calls import error_of, register_tuned, rows, upload

from sintonia.api.path_forms import PathForms
from sintonia.domain.files import FilePurpose
from sintonia.domain.jobs import EventType, JobDraft
from sintonia.store.tables import JOBS

USER = {"role": "user", "content": "hello"}
VERSION = "api-version=2024-10-21"
AZURE_HEADER = (
    "step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,"
    "full_valid_loss,full_valid_mean_token_accuracy"
)


@pytest.mark.parametrize(
    "path",
    [
        f"/openai/models?{VERSION}",
        f"/openai/models?API-Version=2099-99-99-preview&{VERSION}",
        "/openai/models",
        "/openai/v1/models",
        f"/openai/deployments/dep1/models?{VERSION}",
        f"/v1/models?{VERSION}",
    ],
)
def test_every_form_of_a_path_leads_to_the_same_answer_with_azures_headers(client, path):
    answer = client.get(path, headers={"api-key": "any"})
    assert answer.json() == client.get("/v1/models").json()
    assert answer.headers["x-ms-region"]
    assert answer.headers["apim-request-id"] != client.get(path).headers["apim-request-id"]
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-ms-rai-invoked"] == "false"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\tb"])
def test_a_clients_own_request_id_comes_back_if_it_is_plain(client, name):
    asked = {"x-ms-client-request-id": "5f2c-1.a_B"}
    path = f"/openai/models?{VERSION}"
    assert client.get(path, headers=asked).headers["x-ms-client-request-id"] == "5f2c-1.a_B"
    odd = client.get(path, headers={"x-ms-client-request-id": name})
    assert "x-ms-client-request-id" not in odd.headers
    assert "x-ms-client-request-id" not in client.get("/v1/models", headers=asked).headers


def test_openais_own_form_is_not_taken_for_azures(client):
    answer = client.get("/v1/models")
    assert "apim-request-id" not in answer.headers
    assert "x-ms-region" not in answer.headers


@pytest.mark.parametrize("prefix", ["/openai", "/openai/deployments/dep1", "/openai/v1"])
def test_files_and_jobs_answer_under_every_prefix(client, prefix):
    file = client.post(
        f"{prefix}/files?{VERSION}",
        data={"purpose": "fine-tune"},
        files={"file": ("train.jsonl", rows())},
    ).json()
    assert client.get(f"{prefix}/files/{file['id']}/content?{VERSION}").content == rows()
    body = {"model": "gpt-tiny", "training_file": file["id"], "trainingType": "globalstandard"}
    answer = client.post(f"{prefix}/fine_tuning/jobs?{VERSION}", json=body)
    assert answer.headers["sintonia-ignored-parameters"] == "trainingType"
    job = answer.json()
    assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
    for part in ("events", "checkpoints"):
        listed = client.post(f"{prefix}/fine_tuning/jobs/{job['id']}/{part}?{VERSION}").json()
        assert listed["object"] == "list"
    page = client.get(f"{prefix}/fine_tuning/jobs?limit=1&{VERSION}&metadata=null").json()
    assert [one["id"] for one in page["data"]] == [job["id"]]


def test_the_deployment_in_the_path_decides_which_model_answers(client, tuned):
    for body in ({"model": "gpt-9", "messages": [USER]}, {"messages": [USER]}):
        answer = client.post(f"/openai/deployments/tiny/chat/completions?{VERSION}", json=body)
        assert answer.json()["model"] == "tiny"
    for name in (tuned, quote(tuned, safe="")):
        path = f"/openai/deployments/{name}/completions?{VERSION}"
        assert client.post(path, json={"prompt": "abc"}).json()["model"] == tuned


def test_clients_of_before_2023_name_the_engine_in_the_path(client):
    answer = client.post("/v1/engines/tiny/completions", json={"prompt": "abc"})
    assert (answer.json()["model"], answer.json()["choices"][0]["text"]) == ("tiny", "abc")
    assert "x-ms-region" not in answer.headers


@pytest.mark.parametrize("name", ["org/tiny", "org%2Ftiny", "org/files/tiny"])
def test_a_models_name_with_slashes_may_be_a_deployments(client, services, name):
    register_tuned(services, "org/tiny")
    path = f"/openai/deployments/{name}/chat/completions?{VERSION}"
    answer = client.post(path, json={"messages": [USER]})
    if "files" in name:
        error_of(answer, 404, "404")
    else:
        assert answer.json()["model"] == "org/tiny"


def test_no_path_takes_long_to_understand():
    path = "/v1/engines/x" + "/files/" * 9000 + "\n\nx"
    began = time.process_time()
    asyncio.run(
        PathForms(_nothing)({"type": "http", "path": path, "query_string": b""}, None, None)
    )
    assert time.process_time() - began < 1


async def _nothing(*_) -> None:
    """Serve no request."""


def test_an_unknown_deployment_is_refused_in_azures_words(client):
    path = f"/openai/deployments/nothing/chat/completions?{VERSION}"
    message = error_of(
        client.post(path, json={"messages": [USER]}), 404, "DeploymentNotFound", "model"
    )
    assert "'nothing'" in message
    body = {"model": "nothing", "messages": [USER]}
    error_of(client.post("/openai/v1/chat/completions", json=body), 404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "param"),
    [
        ("GET", "/openai/files/file-x", 404, "resourceNotFound", "id"),
        (
            "GET",
            "/openai/fine_tuning/jobs/ftjob-x",
            404,
            "resourceNotFound",
            "fine_tuning_job_id",
        ),
        ("GET", "/openai/files?limit=0", 400, "invalidPayload", "limit"),
        ("POST", "/openai/fine_tuning/jobs", 400, "invalid_json", None),
        ("GET", "/openai/nothing", 404, "404", None),
        ("GET", "/openai/deployments/tiny/embeddings", 404, "404", None),
        ("PUT", "/openai/files", 405, "method_not_allowed", None),
    ],
)
def test_errors_on_azures_paths_have_azures_codes(client, method, path, status, code, param):
    answer = client.request(method, path)
    code = "invalidPayload" if code == "invalid_json" else code
    message = error_of(answer, status, code, param)
    assert answer.headers["apim-request-id"]
    if code in ("404", "method_not_allowed"):
        assert f"{method} {path}" in message


def test_a_job_that_is_refused_names_what_is_wrong(client):
    body = {"model": "gpt-9", "training_file": "file-x"}
    message = error_of(
        client.post("/openai/fine_tuning/jobs", json=body), 400, "invalidPayload", "model"
    )
    assert "gpt-9" in message
    assert "file-x" in message


def test_files_are_not_imported_from_urls(client):
    body = {"purpose": "fine-tune", "filename": "a.jsonl", "content_url": "https://blob/a.jsonl"}
    answer = client.post(f"/openai/files/import?{VERSION}", json=body)
    message = error_of(answer, 400, "invalidPayload", "content_url")
    assert "POST /openai/files" in message


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_checkpoints_are_not_copied_to_other_accounts(client, method):
    path = f"/openai/fine_tuning/jobs/ftjob-x/checkpoints/ftckpt_x/copy?{VERSION}"
    answer = client.request(method, path, json={"destinationResourceId": "a", "region": "b"})
    message = error_of(answer, 400, "invalidPayload", "destinationResourceId")
    assert "Deploy" in message


@pytest.mark.parametrize(
    ("version", "statuses"),
    [
        ("2022-12-01", ("succeeded", "failed")),
        ("2023-10-01-preview", ("succeeded", "failed")),
        ("2024-02-01", ("processed", "error")),
        ("2025-04-01-preview", ("processed", "error")),
        ("preview", ("processed", "error")),
    ],
)
def test_files_end_in_the_words_of_the_version_asked_for(client, version, statuses):
    ids = [upload(client)["id"], upload(client, b"{}\n")["id"]]
    query = f"api-version={version}"
    for file_id, status in zip(ids, statuses, strict=True):
        assert client.get(f"/openai/files/{file_id}?{query}").json()["status"] == status
    listed = client.get(f"/openai/files?order=asc&{query}").json()["data"]
    assert tuple(file["status"] for file in listed) == statuses


@pytest.fixture
def result(services) -> str:
    """The result file of a job of two steps, of which the second had a validation."""
    jobs, files = services.store.jobs, services.store.files
    job = jobs.create(JobDraft(model="tiny", base_model="tiny", training_file="file-x"))
    made = files.create(
        filename="step_metrics.csv", purpose=FilePurpose.FINE_TUNE_RESULTS, content=[b"step\n1\n"]
    )
    steps = [
        {"train_loss": 2.5, "train_mean_token_accuracy": 0.5},
        {"train_loss": 2.0, "valid_loss": 2.25, "full_valid_loss": 2.125},
    ]
    database = jobs._database
    for step, metrics in enumerate(steps, 1):
        data = {"step": step, **metrics}
        event = jobs.add_event(job.id, f"Step {step}", type=EventType.METRICS, data=data)
        with database.write() as connection:
            connection.exec_driver_sql(
                "UPDATE job_events SET step = ? WHERE id = ?", (step, event.id)
            )
    with database.write() as connection:
        connection.execute(JOBS.update().values(result_files=["file-other", made.id]))
    return made.id


def test_a_result_file_has_azures_name_and_columns_on_azures_paths(client, result):
    answer = client.get(f"/openai/files/{result}/content?{VERSION}")
    assert answer.text.splitlines() == [AZURE_HEADER, "1,2.5,0.5,,,,", "2,2,,2.25,,2.125,"]
    assert "results.csv" in answer.headers["content-disposition"]
    assert client.get(f"/openai/files/{result}?{VERSION}").json()["filename"] == "results.csv"
    plain = client.get(f"/v1/files/{result}/content")
    assert plain.text == "step\n1\n"
    assert "step_metrics.csv" in plain.headers["content-disposition"]


def test_a_result_file_without_a_job_stays_as_it_was_stored(client, services):
    made = services.store.files.create(
        filename="step_metrics.csv", purpose=FilePurpose.FINE_TUNE_RESULTS, content=[b"step\n9\n"]
    )
    assert client.get(f"/openai/files/{made.id}/content").text == "step\n9\n"
