"""Permissions of tuned models for projects: kept and listed."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from api_calls import TUNED, error_of, register_tuned

from sintonia.domain.models import ModelKind


def path_of(model: str, permission: str = "") -> str:
    return f"/v1/fine_tuning/checkpoints/{model}/permissions" + (permission and f"/{permission}")


def create(client, *projects: str, model: str = TUNED) -> list[dict]:
    answer = client.post(path_of(model), json={"project_ids": list(projects)})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def projects(client, query: str = "") -> list[str]:
    answer = client.get(f"{path_of(TUNED)}?{query}")
    assert answer.status_code == 200, answer.text
    return [item["project_id"] for item in answer.json()["data"]]


@pytest.mark.usefixtures("tuned")
def test_permissions_are_created_as_a_list(client):
    answer = client.post(path_of(TUNED), json={"project_ids": ["proj_a", "proj_b"]}).json()
    first, second = answer["data"]
    assert set(first) == {"object", "id", "created_at", "project_id"}
    assert (first["object"], first["project_id"]) == ("checkpoint.permission", "proj_a")
    assert first["id"].startswith("cp_")
    assert {key: value for key, value in answer.items() if key != "data"} == {
        "object": "list",
        "has_more": False,
        "first_id": first["id"],
        "last_id": second["id"],
    }
    assert create(client, "proj_b") == [second]


@pytest.mark.usefixtures("tuned")
def test_the_list_is_newest_first_paged_and_filtered(client):
    ids = [create(client, f"proj_{number}")[0]["id"] for number in range(12)]
    assert projects(client) == [f"proj_{number}" for number in range(11, 1, -1)]
    assert projects(client, f"limit=2&after={ids[5]}") == ["proj_4", "proj_3"]
    assert projects(client, f"order=ascending&limit=2&after={ids[5]}") == ["proj_6", "proj_7"]
    assert projects(client, "project_id=proj_7") == ["proj_7"]
    assert projects(client, "project_id=proj_x") == []


@pytest.mark.usefixtures("tuned")
def test_a_permission_is_taken_back_once(client):
    (made,) = create(client, "proj_a")
    assert client.delete(path_of(TUNED, made["id"])).json() == {
        "id": made["id"],
        "object": "checkpoint.permission",
        "deleted": True,
    }
    assert projects(client) == []
    error_of(client.delete(path_of(TUNED, made["id"])), 404, None, "permission_id")


def test_a_name_may_hold_slashes_and_a_checkpoint_has_its_own(client, services, tuned):
    slashed = register_tuned(services, "ft:org/tiny:me::1aaaaaaa", ModelKind.CHECKPOINT)
    create(client, "proj_a", model=slashed)
    raw, encoded = (client.get(path_of(name)).json() for name in (slashed, quote(slashed, safe="")))
    assert raw == encoded
    assert len(raw["data"]) == 1
    assert projects(client) == []


def test_a_model_that_was_not_tuned_here_has_none(client):
    for name in ("tiny", "ft:nobody"):
        error_of(client.get(path_of(name)), 404, "model_not_found", "model")
        answer = client.post(path_of(name), json={"project_ids": ["p"]})
        error_of(answer, 404, "model_not_found", "model")
        error_of(client.delete(path_of(name, "cp_1")), 404, "model_not_found", "model")


@pytest.mark.usefixtures("tuned")
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "project_ids"),
        ({"project_ids": []}, "array_below_min_length", "project_ids"),
        ({"project_ids": "proj_a"}, "invalid_type", "project_ids"),
        ({"project_ids": [1]}, "invalid_type", "project_ids[0]"),
        ({"project_ids": ["a"], "role": "b"}, "unknown_parameter", "role"),
    ],
)
def test_a_bad_request_is_refused_by_name(client, body, code, param):
    error_of(client.post(path_of(TUNED), json=body), 400, code, param)
    error_of(client.get(f"{path_of(TUNED)}?order=asc"), 400, "invalid_value", "order")
