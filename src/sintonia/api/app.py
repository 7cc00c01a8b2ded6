"""The application: routes, errors and what every request passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from sintonia.api import errors
from sintonia.api.guard import LoopbackGuard
from sintonia.api.headers import StandardHeaders
from sintonia.api.path_forms import PathForms
from sintonia.api.routes import (
    azure,
    chat,
    completions,
    deployments,
    files,
    fine_tunes,
    health,
    jobs,
    models,
)
from sintonia.api.services import Services
from sintonia.api.uploads import clear_uploads

_ROUTERS = (
    health.router,
    files.router,
    jobs.router,
    models.router,
    chat.router,
    completions.router,
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
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        middleware=[
            Middleware(StandardHeaders, organization=services.settings.organization),
            Middleware(LoopbackGuard),
            Middleware(PathForms),
        ],
    )
    app.state.services = services
    errors.install(app)
    for router in _ROUTERS:
        app.include_router(router)
    clear_uploads(services.settings.home)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.services.engine.close()
