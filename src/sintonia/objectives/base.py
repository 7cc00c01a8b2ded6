"""The vocabulary of objectives.

A member of this folder is a module with ``build(spec)``, which returns its :class:`Objective`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sintonia.data.forest import EncodedSequence, Forest
from sintonia.models.policy import Policy


@dataclass(frozen=True)
class SequenceLosses:
    """What each of a forest's S sequences adds to its row's own loss, and over what.

    A row's loss is the sum of its totals divided by the sum of its counts. Of a preference pair
    the first sequence carries the loss of both.
    """

    totals_S: NDArray[np.float64]
    counts_S: NDArray[np.float64]


@dataclass(frozen=True)
class LossOutput:
    """The loss of one micro-batch as a sum and what it is a sum over.

    The loop divides by the count of the whole batch, so accumulation and data parallelism are
    right by construction.
    """

    total: Tensor
    """Scalar, with its graph: what is learned."""
    count: float
    sums: Mapping[str, float] = field(default_factory=dict)
    """Further metrics as sums over the same count, by OpenAI's name without its prefix."""
    by_sequence: SequenceLosses | None = None
    """Without a graph; tells bad rows from good ones."""
    plain_total: Tensor | None = None
    """Without a graph: the loss without what only guides learning, where there is such."""

    @property
    def measured(self) -> float:
        """The loss that is told, which means the same in training and in validation."""
        return float(self.total.detach() if self.plain_total is None else self.plain_total)


class Objective(Protocol):
    """What to learn."""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the policy as the job began.

        If so, the sequences that it meets carry their ``reference``.
        """
        ...

    def batches(self, sequences: Sequence[EncodedSequence], max_tokens: int) -> Iterator[Forest]:
        """Yield the micro-batches of one batch of rows."""
        ...

    def count(self, forest: Forest) -> float:
        """Return what the loss of ``forest`` is a sum over, without computing it."""
        ...

    def loss(self, policy: Policy, forest: Forest) -> LossOutput:
        """Return the summed loss of ``forest``."""
        ...


def sum_by_sequence(values_N: Tensor, forest: Forest) -> Tensor:
    """Return the sum of each sequence's values, in the order of the forest's sequences.

    Added up in float64: a long answer has a thousand terms, and two answers are compared.
    """
    sequence_of_N = torch.from_numpy(forest.sequence_of_N).to(values_N.device)
    sums_S = torch.zeros(forest.num_sequences, dtype=torch.float64, device=values_N.device)
    return sums_S.index_add(0, sequence_of_N, values_N.double())
