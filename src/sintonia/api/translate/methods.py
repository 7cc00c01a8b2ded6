"""How a job trains: the wire's method to the domain's, and back."""

from __future__ import annotations

from typing import Any

from sintonia.api.schemas.jobs import JobRequest
from sintonia.api.schemas.methods import (
    DpoHyperparametersRequest,
    DpoRequest,
    HyperparametersObject,
    HyperparametersRequest,
    MethodObject,
    OfMethod,
)
from sintonia.domain.choices import Choices
from sintonia.domain.jobs import Job
from sintonia.domain.methods import AUTO, Hyperparameters, Method, MethodType
from sintonia.errors import InvalidValue, UnsupportedParameter

IGNORED = (
    "prompt_loss_weight",
    "compute_classification_metrics",
    "classification_n_classes",
    "classification_positive_class",
    "classification_betas",
    "seed",
    "l2_multiplier",
)
"""Hyperparameters of older and of Azure's APIs that are accepted and do nothing here."""

_HyperparametersRequest = HyperparametersRequest | DpoHyperparametersRequest


def method_of(request: JobRequest) -> Method:
    """Return the method with all that was chosen of it, from whichever spelling the caller used.

    Raises ``UnsupportedParameter`` for a method that is not built and ``InvalidValue`` for
    another method's object, and when two spellings disagree.
    """
    method = _type_of(request)
    read = _of_dpo if method is MethodType.DPO else _of_supervised
    choices = request.sintonia.choices if request.sintonia else Choices()
    return Method(method, read(request), choices)


def ignored_hyperparameters(request: JobRequest) -> list[str]:
    """Return the hyperparameters that were given and do nothing."""
    dpo = request.method.dpo if request.method else None
    places = (request.hyperparameters, _nested(request), dpo)
    return [n for place in places for n in IGNORED if getattr(place, n, None) is not None]


def method_object(job: Job) -> MethodObject:
    """Return a job's method as the wire shows it."""
    method = job.draft.method.type.value
    return MethodObject(
        type=method, **{method: OfMethod(hyperparameters=hyperparameters_object(job))}
    )


def hyperparameters_object(job: Job) -> HyperparametersObject:
    """Return a job's hyperparameters: as they were asked for, then as they were resolved."""
    method, resolved = job.draft.method, job.resolved or {}
    names = ["n_epochs", "batch_size", "learning_rate_multiplier"]
    if method.type is MethodType.DPO:
        names.append("beta")
    asked = method.hyperparameters
    values: dict[str, Any] = {name: resolved.get(name, getattr(asked, name)) for name in names}
    return HyperparametersObject(**values)


def _type_of(request: JobRequest) -> MethodType:
    method = request.method
    if method is None:
        return MethodType.SUPERVISED
    if method.type not in tuple(MethodType):
        raise UnsupportedParameter(
            f"Parameter method.type {method.type!r}: only {_listed()} are available here yet. "
            "Use one of these types.",
            param="method.type",
        )
    for other in ("supervised", "dpo", "reinforcement"):
        if other != method.type and getattr(method, other) is not None:
            raise InvalidValue(
                f"Parameter method.{other}: method.type is {method.type!r}. "
                f"Leave it out, or use method.{method.type}.",
                param=f"method.{other}",
            )
    return MethodType(method.type)


def _of_supervised(request: JobRequest) -> Hyperparameters:
    nested, outer = _nested(request), request.hyperparameters
    if nested is not None and outer is not None and _chosen(nested) != _chosen(outer):
        raise InvalidValue(
            "Parameters hyperparameters and method.supervised.hyperparameters disagree. "
            "Give one of them; the first is the older spelling of the second.",
            param="hyperparameters",
        )
    return _chosen(nested or outer)


def _of_dpo(request: JobRequest) -> Hyperparameters:
    if request.hyperparameters is not None:
        raise InvalidValue(
            "Parameter hyperparameters: it is the older spelling of "
            "method.supervised.hyperparameters. Use method.dpo.hyperparameters.",
            param="hyperparameters",
        )
    given = (request.method and request.method.dpo) or DpoRequest()
    nested = given.hyperparameters or DpoHyperparametersRequest()
    if None not in (given.beta, nested.beta) and given.beta != nested.beta:
        raise InvalidValue(
            "Parameters method.dpo.beta and method.dpo.hyperparameters.beta disagree. "
            "Give the second one alone.",
            param="method.dpo.beta",
        )
    return _chosen(nested, nested.beta or given.beta)


def _nested(request: JobRequest) -> _HyperparametersRequest | None:
    of_method = getattr(request.method, request.method.type, None) if request.method else None
    return of_method.hyperparameters if of_method else None


def _chosen(given: _HyperparametersRequest | None, beta: Any = None) -> Hyperparameters:
    """Return what was chosen; ``null`` and absent mean ``auto``."""
    if given is None:
        return Hyperparameters()
    return Hyperparameters(
        n_epochs=given.n_epochs or AUTO,
        batch_size=given.batch_size or AUTO,
        learning_rate_multiplier=given.learning_rate_multiplier or AUTO,
        beta=beta or AUTO,
    )


def _listed() -> str:
    return " and ".join(repr(known.value) for known in MethodType)
