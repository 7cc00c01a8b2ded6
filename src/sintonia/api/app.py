"""The application: routes, errors and what every request passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware

from sintonia.api import errors, openapi
from sintonia.api.batching.runner import BatchRunner
from sintonia.api.guard import LoopbackGuard
from sintonia.api.headers import StandardHeaders
from sintonia.api.idempotency import KeyLocks
from sintonia.api.limits import RequestLimits
from sintonia.api.path_forms import PathForms
from sintonia.api.queries import refuse_unknown
from sintonia.api.routes import (
    azure,
    batches,
    chat,
    completions,
    deployments,
    files,
    fine_tunes,
    health,
    jobs,
    models,
    uploads,
)
from sintonia.api.services import Services
from sintonia.api.sweeping import sweeping, sweeps_of
from sintonia.api.uploads import clear_uploads

_ROUTERS = (
    health.router,
    files.router,
    uploads.router,
    jobs.router,
    models.router,
    chat.router,
    completions.router,
    batches.router,
    deployments.router,
    fine_tunes.router,
    azure.router,
)


def create_app(services: Services) -> FastAPI:
    """Return the application over ``services``; the caller closes the store after it."""
    app = FastAPI(
        title="Sintonia",
        docs_url=None,
        redoc_url=None,
        openapi_url=openapi.PATH,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown)],
        lifespan=_lifespan,
        middleware=[
            Middleware(StandardHeaders, organization=services.settings.organization),
            Middleware(LoopbackGuard),
            Middleware(PathForms),
            Middleware(RequestLimits, services=services),
        ],
    )
    app.state.services = services
    app.openapi = cache(partial(openapi.document, app))  # type: ignore[method-assign]
    app.state.batches = BatchRunner(services)
    app.state.key_locks = KeyLocks()
    errors.install(app)
    for router in _ROUTERS:
        app.include_router(router)
    clear_uploads(services.settings.home)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with sweeping(sweeps_of(app.state.services)), app.state.batches.running():
        yield
    await app.state.services.engine.close()
