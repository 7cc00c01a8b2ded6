"""Deployments: both wires to drafts, facts to both wires."""

from __future__ import annotations

import hashlib
from typing import Any

from sintonia.api.schemas.deployments import (
    DeployedModelObject,
    DeploymentObject,
    DeploymentProperties,
    DeploymentRequest,
    DeploymentResource,
    DeploymentResourceRequest,
    SkuObject,
)
from sintonia.domain.deployments import Deployment

DEFAULT_SKU = "standard"


def asked_of_resource(request: DeploymentResourceRequest) -> dict[str, Any]:
    """Return what to show again of a request to the control plane."""
    model, sku = request.properties.model, request.sku
    return {
        "model": model.name,
        "format": model.format,
        "version": model.version,
        "sku": sku and sku.name,
        "capacity": sku and sku.capacity,
    }


def asked_of_request(request: DeploymentRequest) -> dict[str, Any]:
    """Return what to show again of a request to the older API."""
    scale = request.scale_settings
    return {
        "model": request.model,
        "sku": scale and scale.scale_type,
        "capacity": scale and scale.capacity,
    }


def deployment_resource(deployment: Deployment, collection: str) -> DeploymentResource:
    """Return a deployment as the control plane shows it under the path of its ``collection``."""
    draft, asked = deployment.draft, deployment.draft.asked
    version = f"{draft} {deployment.updated_at}"
    capacity = asked.get("capacity")
    return DeploymentResource(
        id=f"{collection}/{draft.name}",
        name=draft.name,
        sku=SkuObject(
            name=asked.get("sku") or DEFAULT_SKU, capacity=1 if capacity is None else capacity
        ),
        properties=DeploymentProperties(
            model=DeployedModelObject(
                format=asked.get("format") or "OpenAI",
                name=asked.get("model") or draft.model,
                version=asked.get("version") or "1",
            )
        ),
        etag=f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"',
    )


def deployment_object(deployment: Deployment) -> DeploymentObject:
    """Return a deployment as the older API shows it."""
    draft, asked = deployment.draft, deployment.draft.asked
    scale = {"scale_type": asked.get("sku") or DEFAULT_SKU}
    if asked.get("capacity") is not None:
        scale["capacity"] = asked["capacity"]
    return DeploymentObject(
        id=draft.name,
        model=asked.get("model") or draft.model,
        scale_settings=scale,
        created_at=deployment.created_at,
        updated_at=deployment.updated_at,
    )
