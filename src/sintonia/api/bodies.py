"""JSON bodies: read with a limit, parsed strictly, checked against a wire type."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from sintonia.api.path_forms import PATH_MODEL
from sintonia.api.validation import error_of
from sintonia.data import strict_json
from sintonia.domain.choices import parts_of, without
from sintonia.errors import InvalidRequest, PayloadTooLarge, Problems

MAX_JSON_BYTES = 16 * 1024 * 1024
"""The largest JSON body; data files go through ``/v1/files``."""

_MOST_ROUNDS = 4
"""What is left out can bring up something else, but not for long."""
_MAX_DRAINED_BYTES = 4 * 1024**3

T = TypeVar("T", bound=BaseModel)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the body, a JSON object, with the model that the path names, if it names one.

    Raises ``InvalidRequest`` and ``PayloadTooLarge``.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidRequest(
            f"Header Content-Type {kind[:100]!r}: this endpoint takes application/json. "
            "Send the parameters as one JSON object.",
            code="invalid_content_type",
        )
    body = _object(await _read(request))
    named = request.scope.get(PATH_MODEL)
    return body if named is None else {**body, "model": named}


Body = dict[str, Any]
"""A JSON body that was read."""
JsonBody = Annotated[Body, Depends(read_json)]
"""Parameter type of a route with a JSON body."""


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read on for a while: a client that is still sending would miss the answer."""
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > _MAX_DRAINED_BYTES:
            return


def json_answer(answer: BaseModel, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a wire type as a whole answer."""
    return JSONResponse(answer.model_dump(mode="json"), headers=headers)


def parse(model: type[T], body: Mapping[str, Any]) -> T:
    """Return ``body`` as a wire type; ``null`` means absent, of what has a name there.

    Raises ``InvalidRequest``, one of its kinds, that names all that is wrong.
    """
    return parse_whole(model, _said(model, body))


def parse_whole(model: type[T], body: Mapping[str, Any]) -> T:
    """Return ``body`` as a wire type in which ``null`` is a value of its own.

    Raises as ``parse`` does.
    """
    try:
        return model.model_validate(body)
    except ValidationError as problem:
        raise error_of(problem.errors(include_url=False)) from None


def parse_what_can_be(model: type[T], body: Mapping[str, Any], problems: Problems) -> T | None:
    """Return ``body`` as a wire type without what is wrong with it, which goes to ``problems``.

    So that what else is wrong can be told with it. ``None`` where something is missing.
    """
    rest: Any = body
    for _ in range(_MOST_ROUNDS):
        try:
            return model.model_validate(_said(model, rest))
        except ValidationError as problem:
            findings = problem.errors(include_url=False)
        problems.found.append(error_of(findings))
        for finding in findings:
            rest = without(rest, parts_of(finding)) or {}
        if any(finding["type"] == "missing" for finding in findings):
            break
    return None


def _said(model: type[BaseModel], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``body`` says: without nulls, but for those of names to be refused."""
    refuses = model.model_config.get("extra") == "forbid"
    names = model.model_fields
    return {k: v for k, v in body.items() if v is not None or (refuses and k not in names)}


async def _read(request: Request) -> bytes:
    body, chunks = bytearray(), request.stream()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            await drain(chunks)
            raise PayloadTooLarge(
                f"The body is larger than {MAX_JSON_BYTES} bytes, the most for JSON. "
                "Send less at once.",
                code="body_too_large",
            )
    return bytes(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _unreadable("it is not UTF-8") from None
    try:
        value = strict_json.decode(text)
    except ValueError as problem:
        raise _unreadable(str(problem)) from None
    if not isinstance(value, dict):
        raise _unreadable("it is not an object")
    bad = strict_json.bad_text(text, value)
    if bad is not None:
        raise _unreadable(f"{bad[0]} {bad[1]}")
    return value


def _unreadable(why: str) -> InvalidRequest:
    return InvalidRequest(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
        f"using your HTTP library correctly. The body must be one JSON object; here {why}.)",
        code="invalid_json",
    )
