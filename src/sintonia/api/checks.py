"""What a new job needs to be there: a model that can be tuned and files that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sintonia.api.schemas.jobs import JobRequest
from sintonia.api.services import Services
from sintonia.domain.conflicts import conflicts_of
from sintonia.domain.files import FilePurpose, FileStatus
from sintonia.domain.methods import Method
from sintonia.errors import (
    FileNotFound,
    InvalidData,
    InvalidRequest,
    InvalidValue,
    ModelNotAvailable,
    ModelNotFound,
)
from sintonia.runs.plan import linear_layers, unknown_targets


@dataclass(frozen=True)
class Trainable:
    """A model that a job can begin from."""

    shown: str
    """The snapshot of an alias, else the name asked for."""
    base: str
    """The local base model."""
    parent: str | None
    """The tuned model or checkpoint that training continues."""


def trainable(name: str, services: Services) -> Trainable:
    """Return what ``name`` means for training. Raises ``ModelNotAvailable``."""
    try:
        tuned = services.store.models.get(name)
    except ModelNotFound:
        return _base(name, services)
    return Trainable(shown=tuned.name, base=tuned.base.name, parent=tuned.name)


def _base(name: str, services: Services) -> Trainable:
    resolved = services.catalog.resolve(name)
    if not services.library.knows(resolved.base):
        raise ModelNotAvailable(
            f"Model {name} is not available for fine-tuning or does not exist. "
            "GET /v1/models lists the models that are.",
            param="model",
        )
    return Trainable(shown=resolved.shown, base=resolved.base, parent=None)


def problems_of_settings(
    request: JobRequest, method: Method | None, model: Trainable | None, services: Services
) -> list[InvalidValue]:
    """Return an error for every choice that cannot be honoured, as far as it is known here.

    What depends on the rows, or on a base model that is still to be fetched, the worker finds.
    """
    if method is None:
        return []
    problems = conflicts_of(method, has_validation=request.validation_file is not None)
    base = services.library.find(model.base) if model and model.parent is None else None
    if base is not None:
        layers = linear_layers(Path(base.ref.folder))
        problems += unknown_targets(method.choices, layers)
    return problems


def check_data_file(file_id: str | None, param: str, services: Services) -> None:
    """Check that a job can use a file, if one is given.

    Raises ``InvalidRequest`` or ``InvalidData``.
    """
    if file_id is None:
        return
    try:
        file = services.store.files.get(file_id)
    except FileNotFound:
        raise InvalidRequest(
            f"File '{file_id}' does not exist (invalid {param}: {file_id}). "
            "Upload it with purpose 'fine-tune' first.",
            param=param,
        ) from None
    if file.purpose is not FilePurpose.FINE_TUNE:
        raise InvalidRequest(
            f"File '{file_id}' has purpose '{file.purpose}', expected 'fine-tune'. "
            "Upload it again with that purpose.",
            param=param,
            code="invalid_file_purpose",
        )
    if file.status is FileStatus.ERROR:
        which = param.removesuffix("_file")
        first, _, others = (file.status_details or "").partition("\n")
        where = f" The file's status_details name them one by one ({file_id})." if others else ""
        raise InvalidData(
            f"The job failed due to an invalid {which} file. {first}{where}",
            param=param,
            code=f"invalid_{param}",
        )
