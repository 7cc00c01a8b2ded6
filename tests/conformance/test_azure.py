"""Azure's forms of the same requests: other paths and another header for the key.

The answers are held against the same specification; what is Azure's own is checked here.
"""

from __future__ import annotations

import uuid

import httpx
import pytest

from conformance import differences, spec
from conformance.calls import upload
from conformance.sdk.rows import chat_rows
from conformance.wire import Ledger, Wire

VERSION = {"api-version": "2024-10-21"}
OPENAI, V1 = "/openai/...?api-version=", "/openai/v1/..."
DEPLOYMENTS, PLANE = "/openai/deployments/{name}/...", "/subscriptions/.../deployments/{name}"
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"


@pytest.fixture(scope="module")
def client(target):
    """A plain HTTP client of the server that sends the key as Azure's clients do."""
    origin = target.base_url.removesuffix("/v1")
    headers = {"api-key": target.api_key}
    with httpx.Client(base_url=origin, headers=headers, timeout=120) as client:
        if client.get("/openai/models", params=VERSION).status_code != 200:
            pytest.skip("not there: /openai/...")
        yield client


@pytest.fixture(params=["/openai/", "/openai/v1/", "/openai/deployments/some/"])
def azure(request, client):
    """The server under one of Azure's paths, its answers checked as any other."""
    params = {} if "v1" in request.param else VERSION
    ledger = Ledger()
    base = str(client.base_url).rstrip("/") + request.param
    with httpx.Client(
        base_url=base, headers=client.headers, params=params, timeout=120
    ) as under_path:
        yield Wire(under_path, spec.load(), ledger)
    assert not differences.unlisted(ledger.all_departures(), differences.listed())


@pytest.mark.endpoint(OPENAI)
def test_files_and_jobs_answer_under_each_path(azure, model):
    file = upload(azure, "a.jsonl", chat_rows())
    assert file["status"] == "processed"
    assert file["id"] in [one["id"] for one in azure.pages("/files")]
    body = {"model": model, "training_file": file["id"], "trainingType": "standard"}
    job = azure.post("/fine_tuning/jobs", json=body).json()
    assert azure.post(f"/fine_tuning/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    assert azure.get(f"/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert azure.delete(f"/files/{file['id']}").json()["deleted"] is True


@pytest.mark.endpoint(V1)
def test_an_answer_needs_no_version_on_the_v1_path(client, model):
    body = {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    answer = client.post("/openai/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.endpoint(OPENAI)
def test_answers_have_azures_headers(client):
    headers = client.get("/openai/files", params=VERSION).headers
    assert headers["apim-request-id"]
    assert headers["x-ms-region"]


@pytest.mark.endpoint(OPENAI)
def test_errors_have_azures_codes(client):
    answer = client.get("/openai/files/file-none", params=VERSION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "resourceNotFound")
    answer = client.get("/openai/nothing/here", params=VERSION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "404")


@pytest.mark.endpoint(OPENAI)
def test_a_file_has_the_words_of_its_version(client):
    files = {"file": ("a.jsonl", chat_rows())}
    params = {"api-version": "2023-10-01-preview"}
    form = {"purpose": "fine-tune"}
    answer = client.post("/openai/files", params=params, data=form, files=files)
    assert answer.json()["status"] == "succeeded"


@pytest.mark.endpoint(DEPLOYMENTS)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_the_path_decides_which_model_answers(client, model, path):
    body = {"model": "whatever", "max_tokens": 2}
    asked = {"prompt": "a"} if path == "completions" else {"messages": [MESSAGE]}
    url = f"/openai/deployments/{model}/{path}"
    answer = client.post(url, params=VERSION, json={**body, **asked})
    assert answer.status_code == 200, answer.text
    gone = client.post(f"/openai/deployments/none/{path}", params=VERSION, json={**body, **asked})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "DeploymentNotFound")


MESSAGE = {"role": "user", "content": "a"}


@pytest.mark.endpoint(PLANE)
def test_a_deployment_is_made_found_asked_and_deleted(client, model):
    name = f"dep-{uuid.uuid4().hex[:8]}"
    url = f"{ACCOUNT}/deployments/{name}"
    body = {"sku": {"name": "standard", "capacity": 1}}
    body["properties"] = {"model": {"format": "OpenAI", "name": model, "version": "1"}}
    made = client.put(url, params=VERSION, json=body)
    assert made.status_code in (200, 201), made.text
    assert made.json()["properties"]["provisioningState"] == "Succeeded"
    assert client.get(url, params=VERSION).json()["name"] == name
    listed = client.get(f"{ACCOUNT}/deployments", params=VERSION).json()["value"]
    assert name in [one["name"] for one in listed]
    chat = f"/openai/deployments/{name}/chat/completions"
    asked = {"messages": [MESSAGE], "max_tokens": 2}
    assert client.post(chat, params=VERSION, json=asked).status_code == 200
    assert client.delete(url, params=VERSION).status_code in (200, 202, 204)
    assert client.post(chat, params=VERSION, json=asked).status_code == 404
