"""Stored completions become a training file, row by row and in flat memory.

Rows go to temporary files first: two files are filled at once, and what is refused half-way
leaves nothing. Of a row that was written, a hash stays while duplicates are looked for.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from sintonia.api.model_names import names_of_model
from sintonia.api.schemas.distillations import DistillationRequest
from sintonia.api.services import Services
from sintonia.api.uploads import FOLDER
from sintonia.data.distill import Flaw, Row, flaw_of, prompt_of, training_row
from sintonia.domain.datasets import MIN_EXAMPLES
from sintonia.domain.files import FilePurpose, StoredFile
from sintonia.domain.stored_completions import CompletionFilter, StoredCompletion
from sintonia.errors import InsufficientStorage, InvalidRequest, InvalidValue
from sintonia.sealed import FULL_DISK

_HASH_BYTES = 16
_SHOWN_MODELS = 10


@dataclass
class Distilled:
    """What has become of the completions so far, and the two files while they are written."""

    training: IO[bytes]
    validation: IO[bytes]
    num_matched: int = 0
    num_training: int = 0
    num_validation: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    _written: set[bytes] = field(default_factory=set)

    def add(self, completion: StoredCompletion, request: DistillationRequest) -> None:
        """Write the rows of a completion."""
        self.num_matched += 1
        choices = completion.answer["choices"]
        for choice in choices if request.choices == "all" else choices[:1]:
            row = training_row(completion.request, choice)
            flaw = flaw_of(choice, row)
            if flaw is None and request.deduplicate and self._is_known(row):
                flaw = Flaw.DUPLICATE
            if flaw is None:
                self._write(row, request)
            else:
                self.left_out[flaw.value] += 1

    def _write(self, row: Row, request: DistillationRequest) -> None:
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        if request.validation_fraction and _draw(row, request.seed) < request.validation_fraction:
            self.validation.write(line)
            self.num_validation += 1
        else:
            self.training.write(line)
            self.num_training += 1

    def _is_known(self, row: Row) -> bool:
        digest = _digest(row)
        if digest in self._written:
            return True
        self._written.add(digest)
        return False


@dataclass(frozen=True)
class DistilledFiles:
    """What a distillation stored."""

    training: StoredFile
    validation: StoredFile | None
    rows: Distilled


def distill(request: DistillationRequest, services: Services) -> DistilledFiles:
    """Store the files that a request asks for.

    Raises ``InvalidRequest`` when there is nothing to write, ``PayloadTooLarge`` and
    ``InsufficientStorage``.
    """
    wanted = CompletionFilter(
        models=names_of_model(request.model, services),
        metadata=request.metadata,
        created_after=request.created_after,
        created_before=request.created_before,
        ids=None if request.ids is None else tuple(request.ids),
    )
    with _temporary_files(services) as rows:
        for completion in services.store.completions.matching(wanted, newest=request.limit):
            rows.add(completion, request)
        _check(rows, request, services)
        training = _stored(rows.training, request.filename, services)
        if not rows.num_validation:
            return DistilledFiles(training, None, rows)
        name = f"validation-{request.filename}"
        try:
            return DistilledFiles(training, _stored(rows.validation, name, services), rows)
        except Exception:
            services.store.files.delete(training.id)
            raise


def forget(files: DistilledFiles, services: Services) -> None:
    """Remove what a distillation stored."""
    for file in (files.training, files.validation):
        if file is not None:
            services.store.files.delete(file.id)


@contextmanager
def _temporary_files(services: Services) -> Iterator[Distilled]:
    folder = services.settings.home / FOLDER
    try:
        with (
            tempfile.TemporaryFile(dir=folder) as training,
            tempfile.TemporaryFile(dir=folder) as validation,
        ):
            yield Distilled(training, validation)
    except OSError as problem:
        if problem.errno not in FULL_DISK:
            raise
        raise InsufficientStorage(
            "The disk is full; no file was stored. Delete files or run `sintonia gc`."
        ) from None


def _stored(rows: IO[bytes], filename: str, services: Services) -> StoredFile:
    rows.seek(0)
    return services.store.files.create(
        filename=filename,
        purpose=FilePurpose.FINE_TUNE,
        content=iter(lambda: rows.read(2**18), b""),
    )


def _check(rows: Distilled, request: DistillationRequest, services: Services) -> None:
    """Raise ``InvalidRequest`` when a file would have no row."""
    if not rows.num_matched:
        raise InvalidRequest(
            f"No stored completion matches. {_what_there_is(services)}",
            param="model" if request.model else None,
            code="no_completions",
        )
    if not rows.num_training and not rows.num_validation:
        raise InvalidRequest(
            f"None of the answers of {rows.num_matched} stored completions can be learned"
            f"{_left_out(rows)}. "
            "An answer needs text or valid tool calls, and must not be cut off by its limit of "
            "tokens.",
            code="no_completions",
        )
    if request.validation_fraction and not (rows.num_training and rows.num_validation):
        raise InvalidValue(
            f"validation_fraction={request.validation_fraction:g}: of "
            f"{rows.num_training + rows.num_validation} rows {rows.num_training} would be for "
            f"training and {rows.num_validation} for validation{_left_out(rows)}. Give another "
            "fraction or seed, or leave it out.",
            param="validation_fraction",
        )
    if request.job is not None and rows.num_training < MIN_EXAMPLES:
        raise InvalidRequest(
            f"{rows.num_training} rows would be for training{_left_out(rows)}; a job needs at "
            f"least {MIN_EXAMPLES}. Store more completions, or leave filters out.",
            param="job",
        )


def _left_out(rows: Distilled) -> str:
    """Return how many answers became no row, and why; nothing when all did."""
    why = ", ".join(f"{count} {flaw}" for flaw, count in rows.left_out.items())
    return f" (left out: {why})" if why else ""


def _what_there_is(services: Services) -> str:
    """Return which models have stored completions, and how many."""
    counts = list(services.store.completions.count_by_model().items())
    if not counts:
        return "None is stored here: make some with store=true in requests to chat."
    shown = ", ".join(f"{count:,} of {model}" for model, count in counts[:_SHOWN_MODELS])
    others = f" and {len(counts) - _SHOWN_MODELS} more models" * (len(counts) > _SHOWN_MODELS)
    return f"Stored here are: {shown}{others}. Ask for less, or leave filters out."


def _draw(row: Row, seed: int) -> float:
    """Return a number from 0 to 1 that the prompt and the seed alone decide."""
    digest = _digest({"seed": seed, "prompt": prompt_of(row)})
    return int.from_bytes(digest[:8], "big") / 2**64


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()
