"""Fetch one base model: ``python -m sintonia.bases NAME [LOCK]``.

``LOCK`` is the descriptor of the name's lock, taken by the parent, which has closed its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.errors import SintoniaError


def main(name: str, lock: Sequence[str] = ()) -> int:
    """Fetch ``name`` into the home; return the exit status."""
    chosen = settings.load()
    library = Library(
        chosen.home, catalog.load(chosen.aliases), embedded_wheel=chosen.embedded_wheel
    )

    def progress(what: str, part: float) -> None:
        sys.stderr.write(f"{name}: {what} ({part:.0%})\n")

    try:
        library.fetch(name, progress, lock=int(lock[0]) if lock else None)
    except SintoniaError as problem:
        sys.stderr.write(f"{problem.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
