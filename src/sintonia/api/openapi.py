"""The API's own OpenAPI document, at ``/openapi.json``.

Routes read their bodies themselves (strictly, and with a limit), so each names the type of its
body in ``openapi_extra``. Any other status than a success has OpenAI's envelope.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from sintonia.api.schemas.wire import ErrorEnvelope

PATH = "/openapi.json"

_REF = "#/components/schemas/{model}"
_ERROR = {
    "description": "An error, in OpenAI's envelope",
    "content": {"application/json": {"schema": {"$ref": _REF.format(model="ErrorEnvelope")}}},
}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return what a route says in ``openapi_extra`` of its JSON body."""
    return _body("application/json", model)


def form_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return what a route says in ``openapi_extra`` of its multipart form."""
    return _body("multipart/form-data", model)


def _body(kind: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REF)
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document of all routes of ``app``."""
    found: dict[str, Any] = get_openapi(
        title="Sintonia", version=version("sintonia"), routes=app.routes
    )
    schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    envelope = ErrorEnvelope.model_json_schema(ref_template=_REF, mode="serialization")
    schemas |= envelope.pop("$defs") | {ErrorEnvelope.__name__: envelope}
    for operation in _operations(found):
        operation["responses"].pop("422", None)  # the framework's own; here it is a 400
        operation["responses"]["default"] = _ERROR
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schemas |= content["schema"].pop("$defs", {})
    return found


def _operations(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in found["paths"].values():
        yield from methods.values()
