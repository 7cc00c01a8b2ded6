"""The engines. The folder is the registry: each module has ``create(settings) -> Engine``."""

from __future__ import annotations

import sys

from sintonia import plugins
from sintonia.errors import SettingInvalid
from sintonia.generation.base import Engine
from sintonia.settings import Settings


def create(settings: Settings) -> Engine:
    """Make the engine that ``settings.engine`` names. Raises ``SettingInvalid`` for none."""
    registry = sys.modules[__name__]
    if settings.engine not in plugins.names(registry):
        raise SettingInvalid(
            f"Setting engine={settings.engine!r}: no such engine. "
            f"Known are {', '.join(plugins.names(registry))}."
        )
    engine: Engine = plugins.load(registry, settings.engine).create(settings)
    return engine
