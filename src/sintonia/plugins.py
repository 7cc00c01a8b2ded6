"""A folder of sibling modules is a registry: list its names, import one.

Names are read from the file system, so listing them imports nothing; modules whose name
begins with an underscore are not members.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names(package: ModuleType) -> tuple[str, ...]:
    """Return the sorted names of the members of ``package``, importing none."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    )


def load(package: ModuleType, name: str) -> ModuleType:
    """Import member ``name`` of ``package``.

    Raises ``KeyError`` when there is no such member; the name never reaches the import
    system unchecked.
    """
    if name not in names(package):
        raise KeyError(name)
    return importlib.import_module(f"{package.__name__}.{name}")
