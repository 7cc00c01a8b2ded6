"""The list of deliberate differences: ``differences.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.spec import Departure

LIST = Path(__file__).with_name("differences.toml")


@dataclass(frozen=True)
class Difference:
    """A departure from the specification that is meant, and why."""

    where: str
    what: str
    why: str

    def covers(self, departure: Departure) -> bool:
        """Tell whether this entry speaks of a departure.

        In ``where`` a last ``.*`` stands for any one field, and ``value *`` for any value.
        """
        prefix, star, _ = self.where.partition(".*")
        same_place = (
            departure.where.rpartition(".")[0] == prefix if star else departure.where == prefix
        )
        return same_place and _is_same(self.what, departure.what)


def _is_same(listed_as: str, what: str) -> bool:
    is_any_value = listed_as == "value *" and what.startswith("value ")
    return is_any_value or listed_as == what


def listed(path: Path = LIST) -> list[Difference]:
    """Return the entries of the list."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Difference(**entry) for entry in table["difference"]]


def unlisted(departures: Iterable[Departure], entries: Sequence[Difference]) -> list[Departure]:
    """Return the departures that no entry speaks of."""
    return sorted(d for d in departures if not any(entry.covers(d) for entry in entries))
