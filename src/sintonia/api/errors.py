"""The one mapper from errors to OpenAI's envelope.

Invariant: whatever goes wrong, the body is ``{"error": {message, type, param, code}}``; it
never holds a stack, a path of the server or the text of an error that was not raised on purpose.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from sintonia.api.azure import as_azure_tells
from sintonia.api.headers import request_url, standard_headers
from sintonia.api.schemas.wire import ErrorEnvelope, ErrorObject
from sintonia.api.validation import error_of
from sintonia.errors import (
    InvalidRequest,
    NotFound,
    ServerError,
    SintoniaError,
    TooManyRequests,
    Unavailable,
)

_log = logging.getLogger(__name__)

_CLIENT_GONE = 499
"""What proxies write into their logs for it."""


def envelope(error: SintoniaError) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    told = ErrorObject(message=error.message, type=error.type, param=error.param, code=error.code)
    return ErrorEnvelope(error=told).model_dump(mode="json")


def error_response(error: SintoniaError) -> JSONResponse:
    """Return the answer for an error raised on purpose."""
    return JSONResponse(envelope(error), error.status, headers=_headers(error))


def _headers(error: SintoniaError) -> dict[str, str]:
    if isinstance(error, Unavailable | TooManyRequests):
        seconds = error.retry_after_seconds
        return {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}
    if isinstance(error, ServerError):
        # OpenAI's clients repeat every 5xx; this one would fail the same way.
        return {"x-should-retry": "false"}
    return {}


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with the envelope."""
    app.add_exception_handler(SintoniaError, _on_sintonia_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_bad_query)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_fault)


async def _on_sintonia_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SintoniaError)
    if isinstance(error, ServerError):
        _log.error("%s %s", request.scope["sintonia.request_id"], error.message, exc_info=error)
    return error_response(as_azure_tells(request.scope, error))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what the framework refuses before any route runs."""
    assert isinstance(error, HTTPException)
    meant = _ROUTING.get(error.status_code, _other)(request.scope)
    meant = as_azure_tells(request.scope, meant)
    return JSONResponse(envelope(meant), error.status_code, headers=error.headers)


async def _on_bad_query(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error_of(error.errors(), outer_parts=1)
    return error_response(as_azure_tells(request.scope, found))


async def _on_gone(_request: Request, _error: Exception) -> Response:
    """End the request of a client that went away; nobody reads the answer."""
    return Response(status_code=_CLIENT_GONE)


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of ours; the server's log has its kind under the same request id.

    The stack follows there: the framework raises the error again for the HTTP server to log.
    """
    request_id = request.scope["sintonia.request_id"]
    _log.error("%s %s: %s", request_id, request_url(request.scope), type(error).__name__)
    fault = ServerError(
        "The server had an error while processing your request. Try again; if it stays, look "
        "into the server's log for the request id in the x-request-id header."
    )
    return JSONResponse(
        envelope(fault),
        fault.status,
        headers={**standard_headers(request.scope), **_headers(fault)},
    )


def _unknown_url(scope: Scope) -> SintoniaError:
    return NotFound(
        f"Unknown request URL: {request_url(scope)}. Please check the URL for typos; "
        "the API lies under /v1.",
        code="unknown_url",
    )


def _wrong_method(scope: Scope) -> SintoniaError:
    return InvalidRequest(
        f"Not allowed: {request_url(scope)}. Use a method that the Allow header names.",
        code="method_not_allowed",
    )


def _other(scope: Scope) -> SintoniaError:
    return InvalidRequest(f"The request cannot be read: {request_url(scope)}.")


_ROUTING = {404: _unknown_url, 405: _wrong_method}
