"""The vocabulary of objectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sintonia.data.forest import EncodedSequence, Forest
from sintonia.models.policy import Policy


@dataclass(frozen=True)
class LossOutput:
    """The loss of one micro-batch as a sum and what it is a sum over.

    The loop divides by the count of the whole batch, so accumulation and data parallelism are
    right by construction.
    """

    total: Tensor
    """Scalar, with its graph."""
    count: float
    sums: Mapping[str, float] = field(default_factory=dict)
    """Further metrics as sums over the same count, by OpenAI's name without its prefix."""


class Objective(Protocol):
    """What a module of this folder offers, as module-level functions."""

    def batches(self, sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
        """Yield the micro-batches of one batch of rows."""
        ...

    def count(self, forest: Forest) -> float:
        """Return what the loss of ``forest`` is a sum over, without computing it."""
        ...

    def loss(self, policy: Policy, forest: Forest) -> LossOutput:
        """Return the summed loss of ``forest``."""
        ...
