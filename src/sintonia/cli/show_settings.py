"""``settings``: what is in force, and where each value comes from."""

from __future__ import annotations

from dataclasses import fields

from sintonia import settings as settings_module
from sintonia.cli.output import console, table
from sintonia.settings import Settings


def show_settings() -> None:
    """Show every setting, its value and its origin."""
    settings = settings_module.load()
    console().print(table(("Setting", "Value", "From"), rows(settings)))
    console().print(
        f"Set one as SINTONIA_NAME in the environment, or in {settings.home / 'sintonia.toml'}.",
        style="dim",
        soft_wrap=True,
    )


def rows(settings: Settings) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every setting."""
    values = [
        (field.name, str(getattr(settings, field.name)), settings.origins.get(field.name, ""))
        for field in fields(Settings)
        if field.name not in ("aliases", "origins")
    ]
    aliases = [(f"aliases.{name}", target, "file") for name, target in settings.aliases.items()]
    return values + aliases
