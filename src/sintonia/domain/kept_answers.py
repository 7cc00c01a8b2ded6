"""Answers that are kept, so that a request which is sent again gets the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class KeptAnswer:
    """What was answered to a request with an ``Idempotency-Key``."""

    fingerprint: str
    """A hash of the request; another one under the same key is another request."""
    status: int
    headers: Mapping[str, str]
    body: str
