"""Deployments over Azure's control plane and over its older API."""

from __future__ import annotations

import pytest
from api_calls import TUNED, error_of, register_tuned

from sintonia.domain.jobs import JobDraft
from sintonia.domain.models import ModelKind
from sintonia.store.tables import CHECKPOINTS

ACCOUNT = "/subscriptions/s-1/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"
VERSION = "api-version=2024-10-21"
USER = {"role": "user", "content": "hello"}


def body(model: str, **more) -> dict:
    named = {"format": "OpenAI", "name": model, "version": "1", **more}
    return {"sku": {"name": "standard", "capacity": 1}, "properties": {"model": named}}


def put(client, name: str, model: str, **more):
    return client.put(f"{ACCOUNT}/deployments/{name}?{VERSION}", json=body(model, **more))


def ask(client, name: str):
    path = f"/openai/deployments/{name}/chat/completions?{VERSION}"
    return client.post(path, json={"model": name, "messages": [USER]})


def test_a_tuned_model_is_deployed_asked_listed_and_deleted(client, tuned):
    answer = put(client, "my-dep", tuned)
    assert answer.status_code == 201
    deployed = answer.json()
    etag = deployed.pop("etag")
    assert deployed == {
        "id": f"{ACCOUNT}/deployments/my-dep",
        "name": "my-dep",
        "type": "Microsoft.CognitiveServices/accounts/deployments",
        "sku": {"name": "standard", "capacity": 1},
        "properties": {
            "model": {"format": "OpenAI", "name": tuned, "version": "1"},
            "provisioningState": "Succeeded",
            "capabilities": {"chatCompletion": "true", "completion": "true"},
            "rateLimits": [],
        },
    }
    whole = {**deployed, "etag": etag}
    assert client.get(f"{ACCOUNT}/deployments/my-dep?{VERSION}").json() == whole
    assert client.get(f"{ACCOUNT}/deployments?{VERSION}").json() == {"value": [whole]}
    assert ask(client, "my-dep").json()["model"] == tuned
    assert client.delete(f"{ACCOUNT}/deployments/my-dep?{VERSION}").status_code == 200
    assert client.delete(f"{ACCOUNT}/deployments/my-dep?{VERSION}").status_code == 204
    error_of(client.get(f"{ACCOUNT}/deployments/my-dep"), 404, "DeploymentNotFound", "model")
    error_of(ask(client, "my-dep"), 404, "DeploymentNotFound", "model")


def test_a_deployment_works_wherever_a_model_is_asked_by_name(client, tuned):
    put(client, "gpt-tiny", tuned)
    for path in ("/openai/v1/chat/completions", "/v1/chat/completions"):
        answer = client.post(path, json={"model": "gpt-tiny", "messages": [USER]})
        assert answer.json()["model"] == tuned


def test_what_was_answered_may_be_sent_back_with_another_model(client, tuned):
    deployed = put(client, "dep", "gpt-tiny").json()
    deployed["properties"]["model"]["name"] = tuned
    answer = client.put(f"{ACCOUNT}/deployments/dep?{VERSION}", json=deployed)
    assert answer.status_code == 200
    assert answer.json()["etag"] != deployed["etag"]
    assert ask(client, "dep").json()["model"] == tuned


def test_the_path_of_the_control_plane_may_be_in_any_case(client):
    path = f"{ACCOUNT}/deployments/dep".replace("resourceGroups", "resourcegroups")
    path = path.replace("Microsoft.CognitiveServices", "microsoft.cognitiveservices")
    answer = client.put(path, json=body("tiny"))
    assert answer.json()["id"] == f"{ACCOUNT}/deployments/dep"


def test_a_checkpoint_is_deployed_by_its_id(client, services, tuned):
    model = register_tuned(services, f"{TUNED}:ckpt-step-3", ModelKind.CHECKPOINT)
    jobs = services.store.jobs
    job = jobs.create(JobDraft(model="tiny", base_model="tiny", training_file="file-x"))
    row = {"id": "ftckpt_1", "job_id": job.id, "created_at": 1, "model": model, "step": 3}
    with jobs._database.write() as connection:
        connection.execute(CHECKPOINTS.insert().values({**row, "metrics": {}}))
    assert put(client, "dep", "ftckpt_1").json()["properties"]["model"]["name"] == "ftckpt_1"
    assert ask(client, "dep").json()["model"] == model


def test_a_model_that_is_not_there_is_not_deployed(client, tuned):
    client.delete(f"/v1/models/{tuned}")
    for model in (tuned, "gpt-9"):
        message = error_of(put(client, "dep", model), 400, "invalid_value", "properties.model.name")
        assert model in message
        assert "/openai/models" in message
    assert client.get(f"{ACCOUNT}/deployments").json() == {"value": []}


def test_a_deployment_whose_model_was_deleted_says_so(client, tuned):
    put(client, "dep", tuned)
    client.delete(f"/v1/models/{tuned}")
    message = error_of(ask(client, "dep"), 404, "DeploymentNotFound", "model")
    assert tuned in message
    assert "Deploy another model" in message


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"properties": None}, "missing_required_parameter", "properties"),
        ({"properties": {"model": {}}}, "missing_required_parameter", "properties.model.name"),
        ({"sku": {"name": 3}}, "invalid_type", "sku.name"),
        ({"colour": "red"}, "unknown_parameter", "colour"),
    ],
)
def test_a_wrong_body_is_refused_by_name(client, change, code, param):
    answer = client.put(f"{ACCOUNT}/deployments/dep", json={**body("tiny"), **change})
    error_of(answer, 400, code, param)


@pytest.mark.parametrize("name", ["-x", "a" * 65, "ft:x", "a%20b"])
def test_a_name_that_azure_would_not_take_is_refused(client, name):
    error_of(put(client, name, "tiny"), 400, "invalid_value", "deploymentName")


def test_the_older_api_names_deployments_itself(client, tuned):
    scale = {"scale_type": "manual", "capacity": 2}
    made = client.post(
        "/openai/deployments?api-version=2022-12-01",
        json={"model": tuned, "scale_settings": scale},
    ).json()
    assert made["id"].startswith("deployment-")
    assert {name: made[name] for name in made if not name.endswith("_at")} == {
        "id": made["id"],
        "object": "deployment",
        "model": tuned,
        "owner": "organization-owner",
        "scale_settings": scale,
        "status": "succeeded",
    }
    path = f"/openai/deployments/{made['id']}"
    assert client.get(path).json() == made
    assert client.get("/openai/deployments").json()["data"] == [made]
    answer = client.post(f"{path}/completions", json={"prompt": "abc"}).json()
    assert (answer["model"], answer["choices"][0]["text"]) == (tuned, "abc")
    assert client.delete(path).json() == {
        "id": made["id"],
        "object": "deployment",
        "deleted": True,
    }
    error_of(client.get(path), 404, "DeploymentNotFound", "model")
    error_of(client.delete(path), 404, "DeploymentNotFound", "model")
