"""Deployments on the wire: in the form of Azure's control plane, and in that of its older API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sintonia.api.schemas.wire import StrictRequest, Wire


class SkuRequest(StrictRequest):
    """``sku``: what a deployment costs and takes at Azure; does nothing."""

    name: str | None = Field(default=None, max_length=100)
    capacity: int | None = Field(default=None, ge=0)
    family: Any = None
    size: Any = None
    tier: Any = None


class DeployedModelRequest(StrictRequest):
    """``properties.model``; its name alone decides."""

    name: str = Field(min_length=1, max_length=256)
    format: str | None = Field(default=None, max_length=100)
    version: str | None = Field(default=None, max_length=100)
    publisher: Any = None
    source: Any = None
    sourceAccount: Any = None
    callRateLimit: Any = None


class DeploymentPropertiesRequest(StrictRequest):
    """``properties``; all but the model are accepted and do nothing."""

    model: DeployedModelRequest
    callRateLimit: Any = None
    capabilities: Any = None
    capacitySettings: Any = None
    currentCapacity: Any = None
    dynamicThrottlingEnabled: Any = None
    parentDeploymentName: Any = None
    provisioningState: Any = None
    raiPolicyName: Any = None
    rateLimits: Any = None
    scaleSettings: Any = None
    versionUpgradeOption: Any = None


class DeploymentResourceRequest(StrictRequest):
    """Body of a ``PUT`` of the control plane; what an answer has besides may be sent back."""

    properties: DeploymentPropertiesRequest
    sku: SkuRequest | None = None
    id: Any = None
    name: Any = None
    type: Any = None
    etag: Any = None
    systemData: Any = None
    tags: Any = None


class DeployedModelObject(Wire):
    """``properties.model`` in an answer."""

    format: str
    name: str
    version: str


class DeploymentProperties(Wire):
    """``properties`` in an answer."""

    model: DeployedModelObject
    provisioningState: Literal["Succeeded"] = "Succeeded"
    capabilities: dict[str, str] = Field(default={"chatCompletion": "true", "completion": "true"})
    """Azure writes them as text."""
    rateLimits: list[Any] = Field(default=[])


class SkuObject(Wire):
    """``sku`` in an answer."""

    name: str
    capacity: int


class DeploymentResource(Wire):
    """A deployment as the control plane shows it."""

    id: str
    name: str
    type: Literal["Microsoft.CognitiveServices/accounts/deployments"] = (
        "Microsoft.CognitiveServices/accounts/deployments"
    )
    sku: SkuObject
    properties: DeploymentProperties
    etag: str


class DeploymentResources(Wire):
    """All deployments, as the control plane lists them."""

    value: list[DeploymentResource]


class ScaleSettings(StrictRequest):
    """``scale_settings`` of the older API; does nothing."""

    scale_type: str = Field(max_length=100)
    capacity: int | None = Field(default=None, ge=0)


class DeploymentRequest(StrictRequest):
    """Body of a ``POST`` of the older API, which names the deployment itself."""

    model: str = Field(min_length=1, max_length=256)
    scale_settings: ScaleSettings | None = None


class DeploymentObject(Wire):
    """A deployment as the older API shows it."""

    id: str
    object: Literal["deployment"] = "deployment"
    model: str
    owner: Literal["organization-owner"] = "organization-owner"
    scale_settings: dict[str, Any]
    status: Literal["succeeded"] = "succeeded"
    created_at: int
    updated_at: int


class DeploymentDeleted(Wire):
    """The answer to a deletion."""

    id: str
    object: Literal["deployment"] = "deployment"
    deleted: Literal[True] = True
