"""What a migration brought, and what cannot be had: for a reader, and for a program."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintonia.domain.imported import Item, ItemKind, ItemState, Json
from sintonia.migration.objects import files_of
from sintonia.sealed import write_atomically
from sintonia.store.manifest import Manifest

FOLDER = "migrations"
"""In the home."""
WEIGHTS = (
    "The weights of tuned models. OpenAI gives none out. The data, the settings and the curves "
    "are here: `sintonia migrate rerun JOB` trains such a model again on a base of your own."
)
NOT_WHOLE = "It is not whole yet: run the same command again, and it goes on."
_SHOWN_MODELS = 200


@dataclass(frozen=True)
class Loss:
    """Something that could not be had."""

    item: Item
    needed_by: tuple[str, ...]
    """Jobs that name it."""

    @property
    def label(self) -> str:
        """The thing's name and purpose, for a reader."""
        found = self.item.object or {}
        parts = (self.item.kind, self.item.id, found.get("filename"), found.get("purpose"))
        return " ".join(str(part) for part in parts if part)


@dataclass(frozen=True)
class Report:
    """How things stand with one server."""

    source: str
    counts: Counter[tuple[ItemKind, ItemState]] = field(default_factory=Counter)
    size_bytes: int = 0
    losses: tuple[Loss, ...] = ()
    remarks: tuple[Item, ...] = ()
    """Files that are here, with something to be known of them."""
    models: tuple[tuple[str, str], ...] = ()
    """Tuned models whose weights stay there, each with its job."""
    odd: tuple[str, ...] = ()
    """Ids that are none."""
    broke_off: bool = False
    """Whether the run did not come to its end: the server may have more than was listed."""

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is left to be read."""
        is_left = any(self.counts[kind, ItemState.LISTED] for kind in ItemKind)
        return not is_left and not self.broke_off


def report_of(manifest: Manifest, source: str, odd: list[str] | None) -> Report:
    """Return how things stand with a server, from the manifest.

    ``odd`` is what the run returned, ``None`` for one that broke off.
    """
    counts: Counter[tuple[ItemKind, ItemState]] = Counter()
    lost, remarks, models = {}, [], []
    needed: dict[str, list[str]] = {}
    size_bytes = 0
    for item in manifest.items(source):
        counts[item.kind, item.state] += 1
        size_bytes += item.size_bytes or 0
        if item.state is ItemState.LOST:
            lost[item.id] = item
        elif item.reason:
            remarks.append(item)
        if item.kind is ItemKind.JOB:
            found = item.object or {}
            if found.get("fine_tuned_model"):
                models.append((str(found["fine_tuned_model"]), item.id))
            for file_id in files_of(found):
                if file_id in lost:  # files come first
                    needed.setdefault(file_id, []).append(item.id)
    losses = tuple(Loss(item, tuple(needed.get(name, ()))) for name, item in lost.items())
    return Report(
        source=source,
        counts=counts,
        size_bytes=size_bytes,
        losses=losses,
        remarks=tuple(remarks),
        models=tuple(models),
        odd=tuple(odd or ()),
        broke_off=odd is None,
    )


def write(folder: Path, report: Report, manifest: Manifest) -> Path:
    """Write the report as Markdown and as JSON; return the place of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_name(report.source)}.md"
    write_atomically(path.with_suffix(".json"), _json(report, manifest))
    write_atomically(path, markdown(report).encode())
    return path


def markdown(report: Report) -> str:
    """Return the report for a reader."""
    counts = report.counts
    lines = [f"# What was brought over from {report.source}", ""]
    if not report.is_whole:
        lines += [NOT_WHOLE, ""]
    lines += ["| | here | not ended there | cannot be had | still to be read |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    states = (ItemState.DONE, ItemState.OPEN, ItemState.LOST, ItemState.LISTED)
    for kind in ItemKind:
        cells = " | ".join(f"{counts[kind, state]:,}" for state in states)
        lines.append(f"| {kind}s | {cells} |")
    lines += ["", f"{report.size_bytes:,} bytes of files, each checked by size and sha256.", ""]
    lines += ["## What cannot be had", "", *_cannot(report)]
    if report.remarks:
        lines += ["", "## What to know of what came", ""]
        lines += [f"- {item.kind} {item.id}: {item.reason}" for item in report.remarks]
    return "\n".join(lines) + "\n"


def cannot_be_had(report: Report) -> list[str]:
    """Return what cannot be had, a line for each thing."""
    lines = [f"{loss.label}: {loss.item.reason}{_needed(loss)}" for loss in report.losses]
    return lines + [f"{name}: the server's list has it, but it is no id." for name in report.odd]


def _cannot(report: Report) -> Iterator[str]:
    if report.models:
        yield f"- {WEIGHTS} {len(report.models):,} models:"
        for name, job_id in report.models[:_SHOWN_MODELS]:
            yield f"  - `{name}` (`{job_id}`)"
        if len(report.models) > _SHOWN_MODELS:
            yield f"  - and {len(report.models) - _SHOWN_MODELS:,} more, in the JSON beside this"
    for line in cannot_be_had(report):
        yield f"- {line}"
    if report.models or report.losses or report.odd:
        return
    if report.is_whole:
        yield "Nothing: all that the server has is here."
    else:
        yield "Nothing that is known of so far."


def _needed(loss: Loss) -> str:
    if not loss.needed_by:
        return ""
    more = f" and {len(loss.needed_by) - 3} more" if len(loss.needed_by) > 3 else ""
    return f" Needed by {', '.join(loss.needed_by[:3])}{more}."


def _json(report: Report, manifest: Manifest) -> bytes:
    lost = [
        {
            "kind": loss.item.kind,
            "id": loss.item.id,
            "object": loss.item.object,
            "reason": loss.item.reason,
            "needed_by": loss.needed_by,
        }
        for loss in report.losses
    ]
    value = {
        "source": report.source,
        "counts": {
            kind: {state: report.counts[kind, state] for state in ItemState} for kind in ItemKind
        },
        "bytes": report.size_bytes,
        "weights": [{"model": name, "job": job_id} for name, job_id in report.models],
        "lost": lost,
        "not_ids": report.odd,
        "is_whole": report.is_whole,
        "items": [_line(item) for item in manifest.items(report.source)],
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _line(item: Item) -> Json:
    line: dict[str, Any] = {"kind": item.kind, "id": item.id, "state": item.state}
    facts = {"bytes": item.size_bytes, "sha256": item.sha256, "remark": item.reason}
    return line | {name: value for name, value in facts.items() if value is not None}


def _name(source: str) -> str:
    """Return a name for the files of a server's report; another path is another server."""
    parts = urlsplit(source)
    place = f"{parts.hostname}-{parts.port}" if parts.port else str(parts.hostname)
    path = re.sub(r"[^\w.-]", "_", parts.path.strip("/"))
    return place if path in ("", "v1") else f"{place}-{path}"
