"""Azure's ways on the wire: what marks a request as Azure's, its headers and its error codes.

The envelope and the messages stay OpenAI's; only codes that scripts for Azure compare differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from sintonia.errors import (
    DeploymentNotFound,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    SintoniaError,
)

SCOPE_KEY = "sintonia.azure"
"""Of a request's scope: its ``AzureCall``; absent when it came in OpenAI's form."""

REGION = "local"
"""What ``x-ms-region`` says: this machine."""

CLIENT_ID_HEADER = "x-ms-client-request-id"
"""What a client calls its request; it is sent back."""

_OF_ROUTING = {"unknown_url": "404", "method_not_allowed": "method_not_allowed"}
"""Codes of what no route answers, and Azure's for each."""
_PLAIN_ID = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")
_RESOURCES = re.compile(r"^/v1/(files|fine_tuning|fine-tunes)(/|$)")
"""Paths where Azure has codes of its own instead of OpenAI's."""


@dataclass(frozen=True)
class AzureCall:
    """A request that came in one of Azure's forms."""

    request_id: str
    api_version: str | None = None
    """As it was asked for, such as ``2024-10-21``."""
    deployment: str | None = None
    """The deployment in the path, where it decides which model answers."""

    @property
    def is_before_2024(self) -> bool:
        """Tell whether the version asked for still ended files as ``succeeded`` or ``failed``."""
        version = self.api_version or ""
        return version[:4].isdecimal() and version < "2024"


def azure_call(scope: Scope) -> AzureCall | None:
    """Return what is Azure's about a request, or ``None`` when it came in OpenAI's form."""
    call = scope.get(SCOPE_KEY)
    assert call is None or isinstance(call, AzureCall)
    return call


def azure_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that Azure sends beside OpenAI's."""
    call = azure_call(scope)
    if call is None:
        return {}
    asked = Headers(scope=scope).get(CLIENT_ID_HEADER, "")
    return {
        "apim-request-id": call.request_id,
        "x-ms-region": REGION,
        "x-ms-rai-invoked": "false",
        **({CLIENT_ID_HEADER: asked} if _PLAIN_ID.match(asked) else {}),
    }


def as_azure_tells(scope: Scope, error: SintoniaError) -> SintoniaError:
    """Return what the answer to a request is to tell of ``error``, which is shown only now."""
    call = azure_call(scope)
    if call is None:
        return error
    if isinstance(error, ModelNotFound) and call.deployment is not None:
        return DeploymentNotFound(call.deployment)
    error.code = _code(scope["path"], error)
    return error


def _code(path: str, error: SintoniaError) -> str | None:
    if error.code in _OF_ROUTING:
        return _OF_ROUTING[error.code]
    if not _RESOURCES.match(path):
        return error.code
    if isinstance(error, NotFound):
        return "resourceNotFound"
    return "invalidPayload" if isinstance(error, InvalidRequest) else error.code
