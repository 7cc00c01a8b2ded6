"""From a job as another server told it to the request that trains the same here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sintonia.domain.imported import Json
from sintonia.domain.methods import MethodType
from sintonia.domain.models import FINE_TUNED
from sintonia.errors import InvalidValue

RERUN_OF = "rerun_of"
"""Key of the metadata that says which job a new one repeats."""
MAX_METADATA = 16
_HYPERPARAMETERS: Mapping[MethodType, tuple[str, ...]] = {
    MethodType.SUPERVISED: ("n_epochs", "batch_size", "learning_rate_multiplier"),
    MethodType.DPO: ("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
}


@dataclass(frozen=True)
class Wishes:
    """What of a job is to be different, or taken differently."""

    model: str | None = None
    """The base to train; ``None``: the one that stands for the job's own."""
    resolved: bool = False
    """Take numbers that the other server had chosen as if they had been asked for."""
    auto: bool = False
    """Leave every hyperparameter to this server."""


def rerun_request(job: Mapping[str, Any], wishes: Wishes) -> Json:
    """Return the body that creates the job again. Raises ``InvalidValue`` for what cannot be."""
    method = _method(job)
    request = {
        "model": wishes.model or job.get("model"),
        "training_file": job.get("training_file"),
        "validation_file": job.get("validation_file"),
        "method": {"type": method, method: {"hyperparameters": _chosen(job, method, wishes)}},
        "suffix": _suffix(job),
        "seed": job.get("seed"),
        "metadata": _metadata(job),
        "sintonia": _extension(job),
    }
    return {name: value for name, value in request.items() if value is not None}


def _method(job: Mapping[str, Any]) -> MethodType:
    given = job.get("method")
    name = given.get("type") if isinstance(given, dict) else None
    if name is None:
        return MethodType.SUPERVISED
    if name not in tuple(MethodType):
        known = " and ".join(repr(known.value) for known in MethodType)
        raise InvalidValue(
            f"Job {job.get('id')}: its method is {name!r}, and only {known} are available here. "
            "Its data and settings are kept."
        )
    return MethodType(name)


def _chosen(job: Mapping[str, Any], method: MethodType, wishes: Wishes) -> Json:
    """Return the hyperparameters to ask for; what is left out is ``auto``.

    A server of ours says which values were given; of OpenAI's there is only the number that
    was used in the end, which is taken as given.
    """
    if wishes.auto:
        return {}
    nested = (job.get("method") or {}).get(method) or {}
    found = nested.get("hyperparameters") or job.get("hyperparameters") or {}
    origins = _object(job, "origins")
    return {
        name: found[name]
        for name in _HYPERPARAMETERS[method]
        if found.get(name) not in (None, "auto")
        and (wishes.resolved or origins.get(name, "given") == "given")
    }


def _suffix(job: Mapping[str, Any]) -> str | None:
    given = job.get("user_provided_suffix")
    if given:
        return str(given)
    match = FINE_TUNED.match(str(job.get("fine_tuned_model") or ""))
    return (match["suffix"] if match else None) or None


def _metadata(job: Mapping[str, Any]) -> Json:
    given = dict(job.get("metadata") or {})
    if len(given) < MAX_METADATA:
        given[RERUN_OF] = job.get("id")
    return given


def _extension(job: Mapping[str, Any]) -> Json | None:
    """Return what a server of ours was asked for beyond OpenAI's fields."""
    asked = dict(_object(job, "asked"))
    if (job.get("sintonia") or {}).get("truncate"):
        asked["truncate"] = True
    return asked or None


def _object(job: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = (job.get("sintonia") or {}).get(name)
    return found if isinstance(found, dict) else {}
