"""Permissions of checkpoints: given to projects, listed, taken back."""

from __future__ import annotations

import pytest

PATH = "/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"


@pytest.fixture(scope="module")
def permissions(wire, ended_job) -> str:
    """The path of the permissions of a checkpoint."""
    path = f"/fine_tuning/jobs/{ended_job['id']}/checkpoints"
    name = wire.get(path).json()["data"][0]["fine_tuned_model_checkpoint"]
    return f"/fine_tuning/checkpoints/{name}/permissions"


def give(wire, permissions: str, *projects: str) -> list[dict]:
    return wire.post(permissions, json={"project_ids": list(projects)}).json()["data"]


@pytest.mark.endpoint(f"POST {PATH}")
def test_each_project_gets_a_permission(wire, permissions):
    given = give(wire, permissions, "proj_a", "proj_b")
    assert {one["project_id"] for one in given} == {"proj_a", "proj_b"}
    assert all(one["id"].startswith("cp_") for one in given)


@pytest.mark.endpoint(f"GET {PATH}")
def test_permissions_are_listed_and_found_by_project(wire, permissions):
    (given,) = give(wire, permissions, "proj_c")
    listed = [one["id"] for one in wire.pages(permissions, limit=1)]
    assert given["id"] in listed
    found = wire.get(permissions, params={"project_id": "proj_c"}).json()["data"]
    assert [one["id"] for one in found] == [given["id"]]


@pytest.mark.endpoint(f"DELETE {PATH}/{{permission_id}}")
def test_a_permission_is_taken_back(wire, permissions):
    (given,) = give(wire, permissions, "proj_d")
    deleted = wire.delete(f"{permissions}/{given['id']}").json()
    assert deleted == {"id": given["id"], "object": "checkpoint.permission", "deleted": True}
    assert given["id"] not in [one["id"] for one in wire.pages(permissions)]
