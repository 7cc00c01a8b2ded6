"""Deployments: Azure's control plane, and ``/v1/deployments``, as its API of 2022 had them.

One server is one account: whichever subscription, group and account a path names, it means the
deployments of this server.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from sintonia import ids
from sintonia.api.bodies import JsonBody, parse
from sintonia.api.openapi import json_body
from sintonia.api.schemas.deployments import (
    DeploymentDeleted,
    DeploymentObject,
    DeploymentRequest,
    DeploymentResource,
    DeploymentResourceRequest,
    DeploymentResources,
)
from sintonia.api.schemas.wire import ListPage
from sintonia.api.services import Services, ServicesDep
from sintonia.api.translate.deployments import (
    asked_of_request,
    asked_of_resource,
    deployment_object,
    deployment_resource,
)
from sintonia.domain.deployments import DEPLOYMENT_NAME, DeploymentDraft
from sintonia.errors import DeploymentNotFound, InvalidValue, ModelNotFound

router = APIRouter()

_ACCOUNT = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.CognitiveServices/accounts/{account}"
)
_CREATED, _NO_CONTENT = 201, 204


def _collection(subscription: str, group: str, account: str) -> str:
    path = _ACCOUNT.format(subscription=subscription, group=group, account=account)
    return f"{path}/deployments"


Collection = Annotated[str, Depends(_collection)]
"""Parameter type of a route of the control plane: the path of all deployments."""


@router.put(
    _ACCOUNT + "/deployments/{name}",
    openapi_extra=json_body(DeploymentResourceRequest),
    responses={_CREATED: {"model": DeploymentResource}},
)
def put_deployment(
    name: str, collection: Collection, body: JsonBody, services: ServicesDep, response: Response
) -> DeploymentResource:
    """Give a model a name, or a name another model. It answers at once."""
    request = parse(DeploymentResourceRequest, body)
    if not DEPLOYMENT_NAME.match(name):
        raise InvalidValue(
            f"Invalid deployment name {name[:100]!r}: it begins with a letter or digit and has up "
            "to 64 letters, digits, '_', '.' and '-'. Choose another.",
            param="deploymentName",
        )
    model = _deployable(request.properties.model.name, "properties.model.name", services)
    draft = DeploymentDraft(name, model, asked_of_resource(request))
    deployment, is_new = services.store.deployments.put(draft)
    response.status_code = _CREATED if is_new else response.status_code
    return deployment_resource(deployment, collection)


@router.get(_ACCOUNT + "/deployments")
def list_resources(collection: Collection, services: ServicesDep) -> DeploymentResources:
    """List deployments, oldest first."""
    found = services.store.deployments.list()
    return DeploymentResources(value=[deployment_resource(one, collection) for one in found])


@router.get(_ACCOUNT + "/deployments/{name}")
def get_resource(name: str, collection: Collection, services: ServicesDep) -> DeploymentResource:
    """Return one deployment."""
    return deployment_resource(services.store.deployments.get(name), collection)


@router.delete(
    _ACCOUNT + "/deployments/{name}",
    response_class=Response,
    responses={_NO_CONTENT: {"description": "There was none"}},
)
def delete_resource(name: str, services: ServicesDep) -> Response:
    """Forget a deployment; the control plane answers 204 where there was none."""
    try:
        services.store.deployments.delete(name)
    except DeploymentNotFound:
        return Response(status_code=_NO_CONTENT)
    return Response()


@router.post("/v1/deployments", openapi_extra=json_body(DeploymentRequest))
def create_deployment(body: JsonBody, services: ServicesDep) -> DeploymentObject:
    """Give a model a new name that is drawn."""
    request = parse(DeploymentRequest, body)
    model = _deployable(request.model, "model", services)
    name = ids.DEPLOYMENT + secrets.token_hex(16)
    draft = DeploymentDraft(name, model, asked_of_request(request))
    return deployment_object(services.store.deployments.put(draft)[0])


@router.get("/v1/deployments")
def list_deployments(services: ServicesDep) -> ListPage[DeploymentObject]:
    """List all deployments, oldest first."""
    found = services.store.deployments.list()
    return ListPage(data=[deployment_object(one) for one in found], has_more=False)


@router.get("/v1/deployments/{name}")
def retrieve_deployment(name: str, services: ServicesDep) -> DeploymentObject:
    """Return one deployment."""
    return deployment_object(services.store.deployments.get(name))


@router.delete("/v1/deployments/{name}")
def delete_deployment(name: str, services: ServicesDep) -> DeploymentDeleted:
    """Forget a deployment; its model stays."""
    services.store.deployments.delete(name)
    return DeploymentDeleted(id=name)


def _deployable(name: str, param: str, services: Services) -> str:
    """Return the model that a name or a checkpoint's id means. Raises ``InvalidValue``."""
    checkpoint = services.store.jobs.checkpoint(name)
    model = checkpoint.model if checkpoint else name
    try:
        return services.store.models.get(model).name
    except ModelNotFound:
        base = services.catalog.resolve(model).base
    if checkpoint or not services.library.knows(base):
        raise InvalidValue(
            f"Invalid '{param}': model {name!r} cannot be deployed, for it does not exist or was "
            "deleted. GET /openai/models lists the models that can be; a checkpoint's id can be "
            "given too.",
            param=param,
        )
    return model
