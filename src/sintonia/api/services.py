"""What the routes work with, opened once for a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from sintonia import catalog as catalog_module
from sintonia.api.keeping import Keeper
from sintonia.bases.library import Library
from sintonia.catalog import Catalog
from sintonia.generation.base import Engine
from sintonia.generation.client import EngineClient
from sintonia.generation.wire import socket_path
from sintonia.serving.router import Router
from sintonia.settings import Settings
from sintonia.store import Store


@dataclass(frozen=True)
class Services:
    """Everything behind the API."""

    settings: Settings
    store: Store
    library: Library
    catalog: Catalog
    engine: Engine
    keeper: Keeper = field(default_factory=Keeper)

    @cached_property
    def router(self) -> Router:
        """The way from a model's name to its weights."""
        return Router(self.store, self.library, self.catalog)


def open_services(settings: Settings) -> Services:
    """Open the home's store and library and the way to its engine process."""
    catalog = catalog_module.load(settings.aliases)
    return Services(
        settings=settings,
        store=Store.open(settings),
        library=Library(settings.home, catalog, embedded_wheel=settings.embedded_wheel),
        catalog=catalog,
        engine=EngineClient(socket_path(settings)),
    )


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
"""Parameter type of a route that needs the services."""
