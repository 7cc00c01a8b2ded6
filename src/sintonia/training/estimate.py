"""Before the first step: how much memory and time a run needs, and what would fit this machine.

What stays (weights, gradients, the optimizer's state) is counted; what a token costs is measured
by a short probe of two sizes. Both are estimates: a run that is told to fit may still run out of
memory, and then goes on with smaller micro-batches (``training/fitting.py``).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sintonia.data.forest import EncodedSequence, Forest, build_forest
from sintonia.data.samples import Samples
from sintonia.models.learning import learning
from sintonia.models.policy import Policy
from sintonia.models.quantized import BLOCK, BYTES_PER_WEIGHT
from sintonia.objectives.base import Objective
from sintonia.runs import memory
from sintonia.runs.plan import is_linear_layer
from sintonia.runs.spec import Precision, Quantization, TrainSpec
from sintonia.training.row_order import RowOrder
from sintonia.training.shards import shards
from sintonia.weights import Shape, model_shapes

PROBE_TOKENS = 320
"""The larger of two sizes: their difference is what a token costs, whatever a pass costs."""
PROBE_PART = 5
"""The smaller one is a fifth of it."""
STEPS_LOOKED_AT = 8
STATE_COPIES = 3
"""Of the trained weights beside themselves: the gradient and at most two moments."""
FORWARD_PART = 1 / 3
"""Of the time of a training pass; validation has no backward pass."""
ROOM = 1.3
"""Allocators keep more than is asked of them: a run of 20 steps on 135M weights peaked at 1.9 GB
where 1.4 GB were counted."""


@dataclass(frozen=True)
class Work:
    """How much a run has to compute."""

    tokens_a_step: float
    """Computed tokens, shared prefixes counted once."""
    num_steps: int
    validation_tokens: float
    """Over the whole run."""
    largest_share_tokens: int
    """About: of one process's share of the batches looked at. Micro-batches larger than that stay
    empty in part."""
    largest_row_tokens: int
    """No micro-batch can be smaller than the largest training row needs."""
    learned_part: float
    """Of the tokens; they alone meet the vocabulary."""
    num_processes: int = 1
    """They share the tokens."""
    largest_validation_tokens: int = 0
    """As of a training row; a pass without a gradient needs less memory for each."""


@dataclass(frozen=True)
class Cost:
    """What this machine pays for a model."""

    fixed_bytes: int
    token_bytes: float
    token_seconds: float

    def bytes_for(self, micro_batch_tokens: int) -> int:
        """Return the peak of a run whose forests have at most so many tokens."""
        return int((self.fixed_bytes + self.token_bytes * micro_batch_tokens) * ROOM)

    def tokens_in(self, size_bytes: int) -> int:
        """Return how many tokens a forest may have in so much memory; 0 or less: none."""
        return int((size_bytes / ROOM - self.fixed_bytes) / max(self.token_bytes, 1.0))

    def seconds_for(self, work: Work) -> float:
        """Return how long a run takes."""
        trained = work.tokens_a_step * work.num_steps
        computed = trained + FORWARD_PART * work.validation_tokens
        return self.token_seconds * computed / work.num_processes


def weight_bytes(spec: TrainSpec) -> int:
    """Return how large the base model is in memory, read from its headers."""
    is_rounded = spec.precision is Precision.BFLOAT16 and spec.lora is not None
    wide = 2.0 if is_rounded else 4.0
    is_quantized = spec.quantization is Quantization.NF4

    def size(name: str, shape: Shape) -> float:
        is_narrow = is_quantized and is_linear_layer(name, shape) and shape[-1] % BLOCK == 0
        return math.prod(shape) * (BYTES_PER_WEIGHT if is_narrow else wide)

    shapes = model_shapes(Path(spec.base.folder))
    return int(sum(size(name, shape) for name, shape in shapes.items()))


def work_of(
    spec: TrainSpec,
    objective: Objective,
    training: Samples,
    validation: Samples | None,
    num_processes: int = 1,
) -> Work:
    """Return what a run has to compute, from a few of its steps."""
    order = RowOrder(training.num_rows, spec.batch_size, spec.seed)
    steps = np.linspace(1, order.steps_an_epoch, STEPS_LOOKED_AT).astype(int)
    learned, parts = 0, []
    for step in sorted({int(step) for step in steps}):
        sequences = training.sequences_of(order.rows_of(step))
        for part in shards(sequences, num_processes):
            forests = list(objective.batches(part, spec.micro_batch_tokens))
            parts.append(sum(forest.num_tokens for forest in forests))
            learned += sum(len(forest.targets_N) for forest in forests)
    measured_tokens = 0.0
    if validation is not None:
        batch_part = min(1.0, spec.batch_size / validation.num_rows)
        every = spec.validate_every_steps
        times = spec.n_epochs + batch_part * (spec.total_steps // every if every else 0)
        measured_tokens = times * float(validation.computed_tokens_R.sum())
    return Work(
        tokens_a_step=sum(parts) / len(parts) * num_processes,
        num_steps=spec.total_steps,
        validation_tokens=measured_tokens,
        largest_share_tokens=max(parts),
        largest_row_tokens=largest_row_tokens(objective, training),
        learned_part=min(1.0, learned / sum(parts)),
        num_processes=num_processes,
        largest_validation_tokens=(
            0 if validation is None else largest_row_tokens(objective, validation)
        ),
    )


def largest_row_tokens(objective: Objective, samples: Samples) -> int:
    """Return the size of the largest forest among the smallest that ``objective`` can make.

    Whether it keeps a row together or not, the row that holds that forest is the one with the
    most tokens or the one with the longest sequence.
    """
    rows = {int(samples.computed_tokens_R.argmax()), samples.row_of_the_longest_sequence}
    forests = (f for row in rows for f in objective.batches(samples.sequences_of([row]), 1))
    return max(forest.num_tokens for forest in forests)


def measure_cost(
    policy: Policy, training: Samples, learned_part: float, context_tokens: int
) -> Cost:
    """Probe the model with two small forests of real rows; its weights stay as they are."""
    tokens = min(PROBE_TOKENS, context_tokens)  # learned positions end with the context
    fewer = max(2, tokens // PROBE_PART)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    trained_bytes = sum(p.numel() * p.element_size() for p in trained)
    probe = _Probe(policy, training, learned_part)
    used_bytes = probe.used_bytes()
    small, large = probe.measure(fewer), probe.measure(tokens)
    # Freed memory is used again, so the larger pass may seem to need no more than the smaller.
    floor = (large.peak_bytes - used_bytes) / tokens / 2
    for parameter in trained:
        parameter.grad = None
    return Cost(
        fixed_bytes=used_bytes + STATE_COPIES * trained_bytes,
        token_bytes=max((large.peak_bytes - small.peak_bytes) / (tokens - fewer), floor, 1.0),
        token_seconds=large.seconds / tokens,
    )


@dataclass(frozen=True)
class _Pass:
    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class _Probe:
    policy: Policy
    samples: Samples
    learned_part: float

    def measure(self, tokens: int) -> _Pass:
        """Pass a forest of ``tokens`` forward and backward, twice: the first one warms up."""
        forest = self._forest(tokens)
        self._pass(forest)
        self._forget_peak()
        begin = time.perf_counter()
        self._pass(forest)
        return _Pass(self._peak_bytes(), time.perf_counter() - begin)

    def _pass(self, forest: Forest) -> None:
        with learning(self.policy.model, 0, 0):
            self.policy.score(forest).log_probabilities_N.sum().backward()
        if self._is_cuda:
            torch.cuda.synchronize()

    def _forest(self, tokens: int) -> Forest:
        """Return one sequence of real tokens, of which the usual part is learned."""
        first = self.samples.sequences_of([0])
        content = np.concatenate([sequence.tokens for sequence in first])
        prompt = min(tokens - 1, max(1, round(tokens * (1 - self.learned_part))))
        return build_forest([EncodedSequence(np.resize(content, tokens), prompt, 1.0, 0)])

    @property
    def _is_cuda(self) -> bool:
        return self.policy.device.type == "cuda"

    def used_bytes(self) -> int:
        return int(torch.cuda.memory_allocated()) if self._is_cuda else memory.used_bytes()

    def _peak_bytes(self) -> int:
        if self._is_cuda:
            return int(torch.cuda.max_memory_allocated())
        return memory.peak_bytes()

    def _forget_peak(self) -> None:
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            memory.forget_peak()
