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

from sintonia.domain.methods import AUTO, Hyperparameters, Method, MethodType
from sintonia.domain.models import BaseRef
from sintonia.errors import InvalidValue
from sintonia.runs.spec import (
    AdapterRef,
    DataRef,
    LoraSettings,
    OptimizerSettings,
    Origin,
    TrainSpec,
)
from sintonia.weights import model_shapes

TARGET_EPOCHS = 3
MIN_TARGET_EXAMPLES = 100
MAX_TARGET_EXAMPLES = 25_000
MAX_AUTO_EPOCHS = 25

USUAL_BATCH = 8
MAX_BATCH = 256
STEPS_AN_EPOCH = 10
"""Small files get smaller batches, so that an epoch has about this many steps."""

WARMUP_PART = 0.06
MAX_WARMUP_STEPS = 100
VALIDATIONS_A_RUN = 20
MICRO_BATCH_TOKENS = 2048
SEEDS = 2**32

OBJECTIVES = {MethodType.SUPERVISED: "sft"}
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
    """The parent's own shape, which a continued run keeps."""
    truncate: bool = False
    settings: RunSettings = RunSettings()


def plan(request: PlanRequest) -> TrainSpec:
    """Resolve every value; ``origins`` says where each came from.

    Raises ``InvalidValue`` for a seed that random generators do not take.
    """
    if type(request.seed) is not int or not 0 <= request.seed < SEEDS:
        raise InvalidValue(
            f"Seed {request.seed!r}: must be an integer from 0 to {SEEDS - 1}.", param="seed"
        )
    chosen = _Chosen(request.method.hyperparameters)
    rows = request.training.num_examples
    n_epochs = chosen.value("n_epochs", auto_epochs(rows), Origin.DERIVED)
    batch_size = chosen.value("batch_size", auto_batch_size(rows), Origin.DERIVED)
    multiplier = chosen.value("learning_rate_multiplier", 1.0, Origin.DEFAULT)
    total_steps = int(n_epochs) * math.ceil(rows / int(batch_size))
    origins = {
        **chosen.origins,
        "learning_rate": Origin.INHERITED,
        "warmup_steps": Origin.DERIVED,
        "total_steps": Origin.DERIVED,
        "lora": Origin.INHERITED if request.parent_lora else Origin.DEFAULT,
        "context_tokens": Origin.INHERITED,
        "validate_every_steps": Origin.DERIVED,
        "micro_batch_tokens": Origin.DEFAULT,
    }
    return TrainSpec(
        run_id=request.run_id,
        objective=OBJECTIVES[request.method.type],
        base=request.base.ref,
        template_sha256=request.base.template_sha256,
        training=request.training,
        validation=request.validation,
        parent=request.parent,
        n_epochs=int(n_epochs),
        batch_size=int(batch_size),
        learning_rate_multiplier=float(multiplier),
        total_steps=total_steps,
        lora=request.parent_lora or LoraSettings(targets=request.base.lora_targets),
        optimizer=OptimizerSettings(
            learning_rate=request.base.learning_rate * float(multiplier),
            warmup_steps=min(MAX_WARMUP_STEPS, max(1, round(total_steps * WARMUP_PART))),
        ),
        seed=request.seed,
        context_tokens=request.base.context_tokens,
        truncate=request.truncate,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        validate_every_steps=(
            max(1, total_steps // VALIDATIONS_A_RUN) if request.validation else 0
        ),
        snapshot_seconds=request.settings.snapshot_seconds,
        threads=request.settings.threads,
        cache_folder=request.settings.cache_folder,
        origins=origins,
    )


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


class _Chosen:
    """Tells given values from automatic ones, and remembers which was which."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self._hyperparameters = hyperparameters
        self.origins: dict[str, Origin] = {}

    def value(self, name: str, automatic: float, origin: Origin) -> float:
        given: float | str = getattr(self._hyperparameters, name)
        self.origins[name] = origin if given == AUTO else Origin.GIVEN
        return automatic if isinstance(given, str) else given


_NOT_LINEAR = re.compile(r"embed|wte|wpe|norm")
_NOT_ADAPTED = {"lm_head", "project_in", "project_out", "router", "gate", "shared_expert_gate"}
"""Heads, OPT's changes of width, and what chooses the experts of a mixture."""


def linear_layers(base_folder: Path) -> tuple[str, ...]:
    """Return the names of a model's linear layers, guessed from its weights' headers.

    They are the last parts of the names of two-dimensional weights: ``q_proj``, ``up_proj`` and
    so on. Embeddings, heads, norms and the experts and routers of mixtures are left out.
    Raises ``RefusedModel`` when the weights cannot be read.
    """
    layers = [
        name.removesuffix(".weight").split(".")
        for name, shape in model_shapes(base_folder).items()
        if name.endswith(".weight") and len(shape) == 2
    ]
    return tuple(sorted({parts[-1] for parts in layers if _is_adapted(parts)}))


def _is_adapted(parts: Sequence[str]) -> bool:
    last = parts[-1]
    return last not in _NOT_ADAPTED and "experts" not in parts and not _NOT_LINEAR.search(last)
