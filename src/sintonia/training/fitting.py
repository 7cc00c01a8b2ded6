"""Fits a run into this machine's memory, and says so before the first step.

Invariant: the tokens of a micro-batch are fixed once in ``measured.json``; only an attempt that
ran out of memory halves them, and every attempt after it keeps that. The batch, and so what is
learned, stays as planned.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from sintonia.data.samples import Samples
from sintonia.errors import TrainerFailed
from sintonia.models.policy import Policy
from sintonia.runs import memory
from sintonia.runs.layout import AttemptFolder, RunFolder
from sintonia.runs.spec import Origin, Quantization, TrainSpec
from sintonia.training.distributed import ALONE, World
from sintonia.training.estimate import Cost, Work, measure_cost, weight_bytes
from sintonia.training.measured import Measured
from sintonia.training.reporter import Reporter

REFUSED = "insufficient_memory"
MICRO_BATCH_TOKENS = "micro_batch_tokens"
TOLD_NEEDS = "told_needs"
MIN_TOKENS = 64
GIGABYTE = 10**9


@dataclass(frozen=True)
class Fitting:
    """Fits one attempt of a run."""

    measured: Measured
    reporter: Reporter
    world: World = ALONE
    """Each of its processes holds a model; those of one machine share its memory."""

    def check_weights(self, spec: TrainSpec, where: str) -> None:
        """Raise ``TrainerFailed`` for a base model that cannot even be loaded.

        A base that a processor keeps in four bits is as wide as ever while it is read.
        """
        is_gpu = where == "cuda"
        kept = spec if is_gpu else dataclasses.replace(spec, quantization=Quantization.NONE)
        needed, limit = weight_bytes(kept), self._limit_bytes(torch.device(where))
        if needed > limit:
            place = "this GPU" if is_gpu else self._owner
            raise _refusal(
                f"Base model {spec.base.name} alone needs {_size(needed)} of memory and {place} "
                f"has {_size(limit)}. Choose a smaller one{self._or_fewer}."
            )

    def after_the_attempt_before(
        self, run: RunFolder, attempt: AttemptFolder, spec: TrainSpec, largest_row: int
    ) -> TrainSpec:
        """Return the spec with the tokens in force, halved if the attempt before ran out.

        ``largest_row`` is the number of tokens that no micro-batch can be smaller than. Raises
        ``TrainerFailed`` when smaller micro-batches cannot help any more.
        """
        tokens = self.world.from_first(lambda: self._tokens_after(run, attempt, spec, largest_row))
        return dataclasses.replace(spec, micro_batch_tokens=tokens)

    def _tokens_after(
        self, run: RunFolder, attempt: AttemptFolder, spec: TrainSpec, largest_row: int
    ) -> int:
        tokens = self.measured.fixed(MICRO_BATCH_TOKENS, lambda: spec.micro_batch_tokens)
        before = run.attempt(attempt.number - 1)
        if memory.ran_out(before):  # numbers are never reused, so it is looked at once
            if tokens <= max(MIN_TOKENS, largest_row):
                raise _refusal(
                    "The trainer ran out of memory with one row at a time: the largest has "
                    f"{largest_row:,} tokens. Shorten the rows{_or_checkpoint(spec)}, "
                    "or choose a smaller base model."
                )
            self.reporter.event(
                f"Training ran out of memory and goes on with micro-batches of at most "
                f"{tokens // 2:,} tokens instead of {tokens:,}; "
                f"a batch still has {spec.batch_size} rows.",
                "warn",
            )
            tokens //= 2
            self.measured.change(MICRO_BATCH_TOKENS, tokens)
        return tokens

    def before_the_first_step(
        self, spec: TrainSpec, work: Work, policy: Policy, training: Samples
    ) -> TrainSpec:
        """Estimate once in a run what it needs, tell it, and return the spec that fits.

        Once more where more processes than before share a machine.

        Raises ``TrainerFailed`` with what would fit when nothing does.
        """
        tokens = self.world.from_first(lambda: self._tokens_told(spec, work, policy, training))
        return dataclasses.replace(spec, micro_batch_tokens=tokens)

    def _tokens_told(self, spec: TrainSpec, work: Work, policy: Policy, training: Samples) -> int:
        if self._has_told():
            return spec.micro_batch_tokens
        cost = measure_cost(policy, training, work.learned_part, spec.context_tokens)
        self.reporter.beat()
        limit = self._limit_bytes(policy.device)
        tokens = self.tokens_that_fit(spec, work, cost, limit)
        if tokens < spec.micro_batch_tokens:
            self.measured.change(MICRO_BATCH_TOKENS, tokens)
        largest = min(tokens, work.largest_share_tokens)
        needed = cost.bytes_for(max(largest, work.largest_row_tokens))
        self._tell_long_validation(work, cost, limit)
        self.reporter.event(
            f"Training needs about {_size(needed)} of {_size(limit)} memory{self._each} and about "
            f"{in_words(cost.seconds_for(work))}: {work.num_steps:,} steps of about "
            f"{work.tokens_a_step:,.0f} tokens."
        )
        free = memory.free_bytes()
        more = (needed - memory.used_bytes()) * self.world.local_size
        if policy.device.type == "cpu" and free is not None and more > free:
            self.reporter.event(
                f"Only {_size(free)} of memory are free at the moment: other programs may slow "
                "training down or end it.",
                "warn",
            )
        told = {"bytes": needed, "seconds": cost.seconds_for(work)}
        self.measured.change(TOLD_NEEDS, {**told, "num_processes": self.world.local_size})
        return tokens

    def _tell_long_validation(self, work: Work, cost: Cost, limit: int) -> None:
        """Warn where a validation row may not fit: what it really needs is not measured."""
        room = cost.tokens_in(limit)
        if work.largest_validation_tokens > room:
            self.reporter.event(
                f"The largest row of the validation file has {work.largest_validation_tokens:,} "
                f"tokens and about {room:,} surely fit: measuring it may run out of memory. "
                "Shorten the row if it does.",
                "warn",
            )

    def _has_told(self) -> bool:
        """Tell whether the run was seen to fit, with as many processes to a machine as now."""
        if TOLD_NEEDS not in self.measured:
            return False
        told: dict[str, float] = self.measured.fixed(TOLD_NEEDS, dict)
        return bool(told.get("num_processes", 1) >= self.world.local_size)

    def tokens_that_fit(self, spec: TrainSpec, work: Work, cost: Cost, limit: int) -> int:
        """Return the tokens of a micro-batch that fits: those planned, or fewer.

        Raises ``TrainerFailed`` with what would fit when the caller has to choose it.
        """
        planned = spec.micro_batch_tokens
        room = cost.tokens_in(limit)
        largest = max(min(planned, work.largest_share_tokens), work.largest_row_tokens)
        if largest <= room:
            return planned
        needed = f"This job needs about {_size(cost.bytes_for(largest))} of memory"
        has = f"{self._owner} has {_size(limit)}"
        if room < MIN_TOKENS:
            raise _refusal(
                f"{needed}, {_size(cost.fixed_bytes)} of it for the model alone, and {has}. "
                f"Choose a smaller base model or {_fewer_weights(spec)}{self._or_fewer}."
            )
        if room < work.largest_row_tokens:
            raise _refusal(
                f"{needed}, since its largest row has {work.largest_row_tokens:,} tokens, and "
                f"{has}. Rows of at most {room:,} tokens would fit{_with_checkpoints(spec)}."
            )
        if spec.origins.get(MICRO_BATCH_TOKENS) is Origin.GIVEN:
            raise _refusal(
                f"{needed} with micro_batch_tokens {planned:,}, and {has}. At most {room:,} would "
                "fit; the batch size can stay."
            )
        self.reporter.event(
            f"Micro-batches have at most {room:,} tokens instead of {planned:,}, so that they fit "
            f"into {_size(limit)} of memory; a batch still has {spec.batch_size} rows."
        )
        return room

    def _limit_bytes(self, device: torch.device) -> int:
        """Return how much memory training may use there; of a GPU what others have is taken off."""
        if device.type == "cuda":  # no two processes share one
            return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
        return memory.limit_bytes() // self.world.local_size

    @property
    def _owner(self) -> str:
        if self.world.local_size == 1:
            return "this machine"
        return f"each of {self.world.local_size} processes on this machine"

    @property
    def _each(self) -> str:
        return "" if self.world.is_alone else f" in each of {self.world.size} processes"

    @property
    def _or_fewer(self) -> str:
        return "" if self.world.is_alone else ", or start fewer processes"


def _refusal(message: str) -> TrainerFailed:
    return TrainerFailed(message, code=REFUSED)


def _fewer_weights(spec: TrainSpec) -> str:
    """Return the remedy where weights, gradients and the optimizer's state take too much."""
    return "`tuning: lora`" if spec.lora is None else "a lower LoRA rank"


def _or_checkpoint(spec: TrainSpec) -> str:
    return "" if spec.gradient_checkpointing else ", use gradient_checkpointing"


def _with_checkpoints(spec: TrainSpec) -> str:
    return "" if spec.gradient_checkpointing else "; gradient_checkpointing lets longer ones fit"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / GIGABYTE:.1f} GB"


def in_words(seconds: float) -> str:
    """Return a duration such as ``3 minutes``."""
    if seconds < 1.5:
        return "1 second"
    if seconds < 90:
        return f"{round(seconds)} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
