"""Deployments: Azure's names for models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEPLOYMENT_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
"""Azure's grammar of deployments' names. No tuned model's name has this form."""


@dataclass(frozen=True)
class DeploymentDraft:
    """A name for a model, checked."""

    name: str
    model: str
    """What answers: a tuned model, a checkpoint, a base or an alias."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What its caller sent of scale and model; shown again and without effect."""


@dataclass(frozen=True)
class Deployment:
    """A stored deployment."""

    draft: DeploymentDraft
    created_at: int
    updated_at: int
