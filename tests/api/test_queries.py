"""Query parameters: what a route does not read is refused by name."""

from __future__ import annotations

import re

import pytest
from api_calls import error_of

LISTS = ["/v1/files", "/v1/models", "/v1/fine_tuning/jobs", "/health"]


@pytest.mark.parametrize("path", LISTS)
def test_an_unknown_query_parameter_is_refused_by_name(client, path):
    message = error_of(client.get(f"{path}?colour=red"), 400, "unknown_parameter", "colour")
    assert message.startswith("Unrecognized request argument supplied: colour.")


def test_the_message_names_what_is_known(client):
    message = error_of(client.get("/v1/files?limt=3"), 400, "unknown_parameter", "limt")
    assert "after, limit, order, purpose" in message


def test_the_message_names_brackets_as_they_are_written(client):
    message = error_of(client.get("/v1/fine_tuning/jobs?x=3"), 400, "unknown_parameter", "x")
    assert "metadata[KEY]" in message


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/v1/chat/completions"])
def test_no_more_pairs_are_asked_for_than_an_object_can_have(client, path):
    pairs = [f"metadata[k{number}]=v" for number in range(2000)]
    assert client.get(f"{path}?{'&'.join(pairs[:16])}").status_code == 200
    message = error_of(client.get(f"{path}?{'&'.join(pairs)}"), 400, "invalid_value", "metadata")
    assert "2,000" in message
    assert "16" in message


def test_every_route_checks_its_query(client):
    paths = client.app.openapi()["paths"]
    assert "/v1/uploads/{upload_id}/complete" in paths
    for path, methods in paths.items():
        for method in methods:
            url = re.sub(r"{\w+}", "x", path)
            answer = client.request(method, f"{url}?colour=red")
            error_of(answer, 400, "unknown_parameter", "colour")


def test_brackets_are_read_where_a_route_filters_by_pairs(client):
    assert client.get("/v1/fine_tuning/jobs?metadata[a]=1&metadata%5Bb%5D=2").status_code == 200
    assert client.get("/v1/fine_tuning/jobs?metadata=null").status_code == 200
    error_of(client.get("/v1/files?metadata[a]=1"), 400, "unknown_parameter", "metadata[a]")
    answer = client.get("/v1/fine_tuning/jobs?other[a]=1")
    error_of(answer, 400, "unknown_parameter", "other[a]")
    error_of(client.get("/v1/fine_tuning/jobs?limit[a]=1"), 400, "unknown_parameter", "limit[a]")


def test_any_client_may_name_azures_version(client):
    assert client.get("/openai/files?api-version=2024-10-21").status_code == 200


def test_every_list_refuses_a_cursor_that_is_none_of_its_items(client):
    for path in ("/v1/files", "/v1/fine_tuning/jobs"):
        error_of(client.get(f"{path}?after=nothing"), 400, "invalid_value", "after")


def test_a_limit_out_of_range_says_the_bound_and_the_number(client):
    answer = client.get("/v1/files?limit=0")
    message = error_of(answer, 400, "integer_below_min_value", "limit")
    assert message == (
        "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead."
    )
    error_of(client.get("/v1/files?limit=10001"), 400, "integer_above_max_value", "limit")
