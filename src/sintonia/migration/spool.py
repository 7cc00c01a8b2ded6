"""Events of a job on their way into the store: on disk when they are many.

A job with 20,000 steps has as many events. They are read page by page, and stored at once with
the job, so they lie in a nameless file in between, which is gone with the process.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator

from sintonia.domain.imported import Json

_IN_MEMORY_BYTES = 256 * 1024


class Spool:
    """A list of objects that may be long; each id once."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
        self._ids: set[str] = set()

    def add(self, page: Iterable[Json]) -> None:
        """Add what is new of a page."""
        for item in page:
            if item["id"] not in self._ids:
                self._ids.add(item["id"])
                self._file.write(json.dumps(item).encode() + b"\n")

    def close(self) -> None:
        """Forget everything."""
        self._file.close()

    def __iter__(self) -> Iterator[Json]:
        self._file.seek(0)
        return (json.loads(line) for line in self._file)
