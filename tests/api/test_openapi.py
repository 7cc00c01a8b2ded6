"""The API's own document says what each route reads and answers."""

from __future__ import annotations

from fastapi.routing import APIRoute

from sintonia.api.app import _ROUTERS
from sintonia.api.bodies import read_json


def reads_json(route) -> bool:
    return any(dependency.call is read_json for dependency in route.dependant.dependencies)


def test_every_json_body_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    reading = [r for r in routes_of(_ROUTERS) if reads_json(r)]
    assert len(reading) >= 3
    for route in reading:
        for method in route.methods:
            described = paths[route.path_format][method.lower()]
            assert "application/json" in described["requestBody"]["content"], route.path


def routes_of(routers):
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def test_every_reference_of_the_document_is_there(client):
    document = client.get("/openapi.json").json()
    known = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in known, reference


def references(part):
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from references(one)
