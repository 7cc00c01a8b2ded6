"""Query parameters: those that a route's own signature declares, and no others.

An unknown one is refused by name: what it was to do would not happen. Azure's ``api-version`` is
gone before (``path_forms.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from sintonia.errors import InvalidValue, UnknownParameter

_BRACKETED = re.compile(r"^(\w+)\[(.*)\]$", re.DOTALL)
_SHOWN_CHARACTERS = 100
MAX_PAIRS = 16
"""As many as an object's metadata may have. A database gives up at some hundreds of conditions."""


@dataclass(frozen=True)
class Pairs:
    """A dependency that reads ``name[KEY]=VALUE``, or ``name=null`` for those that have none."""

    name: str

    def __call__(self, request: Request) -> Mapping[str, str] | None:
        """Return the pairs asked for; an empty mapping asks for those without any."""
        given = request.query_params
        if self.name in given:
            if given[self.name] != "null":
                raise InvalidValue(
                    f"Invalid '{self.name}': filter with {self.name}[KEY]=VALUE, or with "
                    f"{self.name}=null for those without any.",
                    param=self.name,
                )
            return {}
        found = [(_BRACKETED.match(key), value) for key, value in given.items()]
        pairs = {m[2]: value for m, value in found if m and m[1] == self.name}
        if len(pairs) > MAX_PAIRS:
            raise InvalidValue(
                f"Invalid '{self.name}': {len(pairs):,} keys are asked for, and nothing has more "
                f"than {MAX_PAIRS}. Ask for fewer.",
                param=self.name,
            )
        return pairs or None


MetadataFilter = Annotated[Mapping[str, str] | None, Depends(Pairs("metadata"))]
"""Parameter type of a list that is filtered by metadata."""


def refuse_unknown(request: Request) -> None:
    """Raise ``UnknownParameter`` for a query parameter that the route does not read."""
    allowed = set(_names(request.scope["route"].dependant))
    unknown = [key for key in request.query_params if not _is_allowed(key, allowed)]
    if not unknown:
        return
    shown = unknown[0][:_SHOWN_CHARACTERS]
    known = ", ".join(sorted(allowed)).replace("[]", "[KEY]") or "none"
    raise UnknownParameter(
        f"Unrecognized request argument supplied: {shown}. Query parameters of this endpoint: "
        f"{known}. Leave out any other.",
        param=shown,
    )


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield the query parameters of a route and of all that it depends on."""
    yield from (field.alias for field in dependant.query_params)
    if isinstance(dependant.call, Pairs):
        yield from (dependant.call.name, f"{dependant.call.name}[]")
    for inner in dependant.dependencies:
        yield from _names(inner)


def _is_allowed(key: str, allowed: set[str]) -> bool:
    bracketed = _BRACKETED.match(key)
    return (f"{bracketed[1]}[]" if bracketed else key) in allowed
