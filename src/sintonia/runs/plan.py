"""The end of ``auto``: one pure function from a request and the facts to a ``TrainSpec``.

Epochs follow OpenAI's published rule. Batch size and learning rate are ours: OpenAI's 0.2 %
rule gives one row per batch below 1,000 rows, which starves the machine and leaves no prefix to
share. ``docs/hyperparameters.md`` has the measurements behind the constants.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sintonia.domain.choices import (
    Choices,
    LoraChoices,
    OptimizerChoices,
    Precision,
    ScheduleChoices,
    Tuning,
)
from sintonia.domain.conflicts import conflicts_of
from sintonia.domain.methods import AUTO, Method, MethodType
from sintonia.domain.models import BaseRef
from sintonia.errors import InvalidValue, all_of
from sintonia.runs.resolve import (
    Ledger,
    RateFacts,
    resolve_dpo,
    resolve_early_stopping,
    resolve_lora,
    resolve_multiplier,
    resolve_optimizer,
    resolve_quantization,
    resolve_schedule,
    resolve_sft,
    resolve_tuning,
)
from sintonia.runs.spec import AdapterRef, DataRef, LoraSettings, Origin, TrainSpec
from sintonia.weights import Shape, model_shapes

N = TypeVar("N", int, float)

TARGET_EPOCHS = 3
MIN_TARGET_EXAMPLES = 100
MAX_TARGET_EXAMPLES = 25_000
MAX_AUTO_EPOCHS = 25

USUAL_BATCH = 8
MAX_BATCH = 256
STEPS_AN_EPOCH = 10
"""Small files get smaller batches, so that an epoch has about this many steps."""

VALIDATIONS_A_RUN = 20
MICRO_BATCH_TOKENS = 2048
SEEDS = 2**32

OBJECTIVES = {MethodType.SUPERVISED: "sft", MethodType.DPO: "dpo"}
"""The objective of each of OpenAI's methods."""


@dataclass(frozen=True)
class BaseNumbers:
    """What planning needs to know of a base model."""

    ref: BaseRef
    learning_rate: float
    context_tokens: int
    template_sha256: str
    lora_targets: tuple[str, ...]


@dataclass(frozen=True)
class RunSettings:
    """What the operator's settings say about a run."""

    snapshot_seconds: float = 120.0
    threads: int = 0
    cache_folder: str = ""


@dataclass(frozen=True)
class PlanRequest:
    """Everything that a plan is made from."""

    run_id: str
    method: Method
    base: BaseNumbers
    training: DataRef
    seed: int
    validation: DataRef | None = None
    parent: AdapterRef | None = None
    parent_lora: LoraSettings | None = None
    """The shape of the parent's adapter, which a continued run keeps; ``None`` where the parent
    was tuned in full."""
    truncate: bool = False
    settings: RunSettings = RunSettings()


def plan(request: PlanRequest) -> TrainSpec:
    """Resolve every value; ``origins`` says where each came from.

    Raises ``InvalidValue`` naming all of it at once: a seed that random generators do not take,
    choices that contradict each other, the base model or the one that training goes on from.
    """
    ledger = Ledger()
    if type(request.seed) is not int or not 0 <= request.seed < SEEDS:
        ledger.refuse(f"Seed {request.seed!r}: must be an integer from 0 to {SEEDS - 1}.", "seed")
    has_validation = request.validation is not None
    ledger.problems += conflicts_of(request.method, has_validation=has_validation)
    length = _length(ledger, request)
    total_steps = length["total_steps"]
    tuning = resolve_tuning(ledger, request.method.choices, parent=_parent_tuning(request))
    spec = TrainSpec(
        run_id=request.run_id,
        objective=OBJECTIVES[request.method.type],
        base=request.base.ref,
        template_sha256=request.base.template_sha256,
        training=request.training,
        validation=request.validation,
        parent=request.parent,
        **length,
        **_learning(ledger, request, tuning, total_steps),
        **_computing(ledger, request),
        quantization=resolve_quantization(ledger, request.method.choices, tuning),
        **_objective_settings(ledger, request.method),
        lora=_lora(ledger, request) if tuning is Tuning.LORA else None,
        seed=request.seed,
        truncate=request.truncate,
        validate_every_steps=max(1, total_steps // VALIDATIONS_A_RUN) if has_validation else 0,
        early_stopping=resolve_early_stopping(
            ledger,
            request.method.choices,
            is_usual=has_validation and request.method.hyperparameters.n_epochs == AUTO,
        ),
        origins=ledger.origins,
    )
    if ledger.problems:
        raise all_of(ledger.problems)
    return spec


def _length(ledger: Ledger, request: PlanRequest) -> dict[str, Any]:
    # A file without rows is refused elsewhere; what else is wrong is to be told with it.
    rows, asked = max(1, request.training.num_examples), request.method.hyperparameters
    n_epochs, batch_size = _number(asked.n_epochs), _number(asked.batch_size)
    n_epochs = ledger.settle("n_epochs", n_epochs, auto_epochs(rows), Origin.DERIVED)
    batch_size = ledger.settle("batch_size", batch_size, auto_batch_size(rows), Origin.DERIVED)
    total_steps = n_epochs * math.ceil(rows / batch_size)
    return {"n_epochs": n_epochs, "batch_size": batch_size, "total_steps": total_steps}


def _learning(
    ledger: Ledger, request: PlanRequest, tuning: Tuning, total_steps: int
) -> dict[str, Any]:
    """Return what the optimizer does."""
    asked, choices = request.method.hyperparameters, request.method.choices
    rate = RateFacts(
        base=request.base.learning_rate,
        multiplier=_number(asked.learning_rate_multiplier),
        tuning=tuning,
        given=choices.optimizer or OptimizerChoices(),
        method=request.method.type,
    )
    return {
        "learning_rate_multiplier": resolve_multiplier(ledger, rate),
        "optimizer": resolve_optimizer(ledger, rate),
        "schedule": resolve_schedule(ledger, choices.schedule or ScheduleChoices(), total_steps),
    }


def _computing(ledger: Ledger, request: PlanRequest) -> dict[str, Any]:
    """Return how the same result is computed."""
    choices, operator = request.method.choices, request.settings
    precision = None if choices.precision in (None, AUTO) else Precision(choices.precision)
    checkpointing = choices.gradient_checkpointing
    return {
        "context_tokens": ledger.settle(
            "context_tokens", None, request.base.context_tokens, Origin.INHERITED
        ),
        "micro_batch_tokens": ledger.default(
            "micro_batch_tokens", choices.micro_batch_tokens, MICRO_BATCH_TOKENS
        ),
        "precision": ledger.default("precision", precision, Precision.FLOAT32),
        "gradient_checkpointing": ledger.default("gradient_checkpointing", checkpointing, False),
        "compile": ledger.default("compile", choices.compile, False),
        "snapshot_seconds": operator.snapshot_seconds,
        "threads": operator.threads,
        "cache_folder": operator.cache_folder,
    }


def _objective_settings(ledger: Ledger, method: Method) -> dict[str, Any]:
    if method.type is MethodType.DPO:
        return {"dpo": resolve_dpo(ledger, _number(method.hyperparameters.beta), method.choices)}
    return {"sft": resolve_sft(ledger, method.choices)}


def _parent_tuning(request: PlanRequest) -> Tuning | None:
    if request.parent is None:
        return None
    return Tuning.FULL if request.parent_lora is None else Tuning.LORA


def _lora(ledger: Ledger, request: PlanRequest) -> LoraSettings:
    given = request.method.choices.lora or LoraChoices()
    if request.parent_lora is None:
        ledger.problems += unknown_targets(request.method.choices, request.base.lora_targets)
    return resolve_lora(ledger, given, request.base.lora_targets, request.parent_lora)


def _number(given: N | Literal["auto"]) -> N | None:
    return None if isinstance(given, str) else given


def auto_epochs(rows: int) -> int:
    """Return OpenAI's number of epochs: three, more for few rows, fewer for very many."""
    if rows * TARGET_EPOCHS < MIN_TARGET_EXAMPLES:
        return min(MAX_AUTO_EPOCHS, MIN_TARGET_EXAMPLES // rows)
    if rows * TARGET_EPOCHS > MAX_TARGET_EXAMPLES:
        return max(1, MAX_TARGET_EXAMPLES // rows)
    return TARGET_EPOCHS


def auto_batch_size(rows: int) -> int:
    """Return rows per step: 8, fewer below 80 rows, OpenAI's 0.2 % where that is more."""
    if rows < USUAL_BATCH * STEPS_AN_EPOCH:
        return max(1, rows // STEPS_AN_EPOCH)
    return min(MAX_BATCH, max(USUAL_BATCH, rows // 500))


_NOT_LINEAR = re.compile(r"embed|wte|wpe|norm")
_NOT_ADAPTED = {"lm_head", "project_in", "project_out", "router", "gate", "shared_expert_gate"}
"""Heads, OPT's changes of width, and what chooses the experts of a mixture."""


def linear_layers(base_folder: Path) -> tuple[str, ...]:
    """Return the names of a model's linear layers, guessed from its weights' headers.

    They are the last parts of the names of two-dimensional weights: ``q_proj``, ``up_proj`` and
    so on. Embeddings, heads, norms and the experts and routers of mixtures are left out.
    Raises ``RefusedModel`` when the weights cannot be read.
    """
    shapes = model_shapes(base_folder)
    found = {_parts(name)[-1] for name, shape in shapes.items() if is_linear_layer(name, shape)}
    return tuple(sorted(found))


def is_linear_layer(name: str, shape: Shape) -> bool:
    """Tell whether a weight is that of one of :func:`linear_layers`."""
    return name.endswith(".weight") and len(shape) == 2 and _is_adapted(_parts(name))


def unknown_targets(choices: Choices, layers: Sequence[str]) -> list[InvalidValue]:
    """Return an error that names every chosen target that a base with these ``layers`` has not."""
    wanted = choices.lora.targets if choices.lora else None
    unknown = sorted(set(wanted or ()) - {*layers, *_NOT_ADAPTED})
    if not unknown:
        return []
    text = (
        f"Setting lora.targets {', '.join(unknown)}: the base model has no such linear layer. "
        f"It has {', '.join(layers)}."
    )
    return [InvalidValue(text, param="sintonia.lora.targets")]


def _parts(name: str) -> list[str]:
    return name.removesuffix(".weight").split(".")


def _is_adapted(parts: Sequence[str]) -> bool:
    last = parts[-1]
    return last not in _NOT_ADAPTED and "experts" not in parts and not _NOT_LINEAR.search(last)
