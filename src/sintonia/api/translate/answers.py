"""What all answers carry: identity, fingerprint and usage."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sintonia import ids
from sintonia.api.schemas.generation import PromptDetails, Usage
from sintonia.serving.answers import Answer, EndPiece
from sintonia.serving.generate import Plan
from sintonia.serving.router import ServedModel


@dataclass(frozen=True)
class Call:
    """One call of the API that answers; all its chunks say the same."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def new_call(prefix: str, served: ServedModel) -> Call:
    """Return the identity of a call of ``served``."""
    return Call(ids.new_id(prefix), int(time.time()), served.name, fingerprint(served))


def fingerprint(served: ServedModel) -> str:
    """Return what changes when the weights do, as OpenAI's ``system_fingerprint``."""
    weights = f"{served.ref.base_sha256}:{served.ref.adapter_sha256}"
    return f"fp_{hashlib.sha256(weights.encode()).hexdigest()[:10]}"


def usage_of(plan: Plan, ends: Sequence[Answer | EndPiece]) -> Usage:
    """Return what a call took whose answers, all that were made, ended so."""
    num_prompt_tokens = plan.num_prompt_tokens
    num_completion_tokens = sum(end.num_tokens for end in ends)
    return Usage(
        prompt_tokens_details=PromptDetails(cached_tokens=plan.num_cached_tokens(ends)),
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_completion_tokens,
        total_tokens=num_prompt_tokens + num_completion_tokens,
    )
