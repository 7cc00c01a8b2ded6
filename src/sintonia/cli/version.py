"""The version of the installed package."""

from importlib import metadata


def version() -> str:
    """Return the version of the installed package."""
    return metadata.version("sintonia")
