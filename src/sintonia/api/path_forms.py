"""The forms in which clients write a path, brought to the one form that routes know.

Invariant: behind this layer every path of the API begins with ``/v1``, a name in it is decoded,
and ``api-version`` is gone from the query. What was asked for stays in the scope for messages.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from starlette.types import ASGIApp, Receive, Scope, Send

from sintonia.api.azure import SCOPE_KEY, AzureCall
from sintonia.api.headers import ASKED_PATH

PATH_MODEL = "sintonia.path_model"
"""Of a request's scope: the model or deployment that its path names for an answer."""

_AZURE = re.compile(r"^/openai(?:/v1)?(?=/)")
_ARM = re.compile(
    r"^/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/"
    r"Microsoft\.CognitiveServices/accounts/(?P<account>[^/]+)/deployments(?P<rest>/[^/]+)?$",
    re.IGNORECASE,
)
_ARM_PATH = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/"
    "Microsoft.CognitiveServices/accounts/{account}/deployments{rest}"
)
_NAMED = re.compile(
    r"^/v1/(?P<kind>deployments|engines)/(?P<name>.+?)(?P<rest>/"
    r"(?:chat/completions|completions|batches|files|fine-tunes|fine_tuning|models|uploads)"
    r"(?:/.*)?)$",
    re.DOTALL,  # else a line's end in a path makes the time quadratic
)
"""A deployment's name, or with clients before 2023 a model's, before the path of an endpoint.

The name may hold slashes. Clients of 2024 wrote it before files and jobs too, where it decides
nothing.
"""
_ANSWERING = frozenset({"/chat/completions", "/completions"})


class PathForms:
    """Rewrites a request's path before anything reads it, and marks what was Azure's.

    It changes the scope in place: the layers outside see the marks as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope.update(_changes(scope))
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class _Form:
    """What a path means."""

    path: str
    """In the form that routes know."""
    is_azure: bool = False
    model: str | None = None
    """The model or deployment that it names for an answer."""


def _changes(scope: Scope) -> Mapping[str, Any]:
    """Return what a request's scope is to say instead; nothing for one in OpenAI's form."""
    asked, form = scope["path"], _form_of(scope["path"])
    version, query = _take_version(scope["query_string"])
    is_azure = form.is_azure or version is not None
    if form.path == asked and not is_azure:
        return {}
    changes = {ASKED_PATH: asked, PATH_MODEL: form.model, "path": form.path, "query_string": query}
    if is_azure:
        changes[SCOPE_KEY] = AzureCall(str(uuid.uuid4()), version, form.model)
    return changes


def _form_of(asked: str) -> _Form:
    arm = _ARM.match(asked)
    if arm is not None:
        path = _ARM_PATH.format_map({**arm.groupdict(), "rest": arm["rest"] or ""})
        return _Form(path, is_azure=True)
    path = _AZURE.sub("/v1", asked)
    named = _NAMED.match(path)
    if named is None:
        return _Form(path, is_azure=path != asked)
    model = named["name"] if named["rest"] in _ANSWERING else None
    is_azure = path != asked or named["kind"] == "deployments"
    return _Form(f"/v1{named['rest']}", is_azure, model)


def _take_version(query: bytes) -> tuple[str | None, bytes]:
    """Return the ``api-version`` of a query, and the query without it."""
    version, kept = None, []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name.lower() == b"api-version":
            version = unquote_plus(value.decode("latin-1"))
        else:
            kept.append(pair)
    return version, b"&".join(kept)
