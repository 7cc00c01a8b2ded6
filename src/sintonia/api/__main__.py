"""The API process: ``python -m sintonia.api --host HOST --port PORT --until-stdin-closes``."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

import uvicorn

from sintonia import failpoints, parent
from sintonia import settings as settings_module
from sintonia.api.app import create_app
from sintonia.api.protocol import EnvelopeProtocol
from sintonia.api.services import open_services
from sintonia.errors import SintoniaError
from sintonia.settings import Settings

_GRACE_SECONDS = 5
"""How long running answers may go on after the order to end."""


def run(settings: Settings, *, until_stdin_closes: bool = False) -> None:
    """Serve at the settings' address until told to end."""
    services = open_services(settings)
    with closing(services.store):
        config = uvicorn.Config(
            create_app(services),
            host=settings.host,
            port=settings.port,
            http=EnvelopeProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        if until_stdin_closes:
            parent.when_it_ends(lambda: setattr(server, "should_exit", True))
        server.run()


def main() -> None:
    """Read the command line and the settings, then serve."""
    parser = argparse.ArgumentParser(prog="python -m sintonia.api", description=__doc__)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--until-stdin-closes", action="store_true")
    given = parser.parse_args()
    try:
        settings = settings_module.load(host=given.host, port=given.port)
        failpoints.arm(settings.failpoint)
        run(settings, until_stdin_closes=given.until_stdin_closes)
    except SintoniaError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
