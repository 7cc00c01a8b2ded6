"""Linear layers that read the same input, as one product, their adapters' updates included.

The rows of every A lie below those of the weights, ``P = [W; A]``. So ``x P^T`` is what the
layers give and ``x A^T`` beside it, and the gradient to the input of both is one product too,
``[g, s g B] P``. Only the small products with B are apart. Unlike merging the updates into W that
costs nothing for each step, only a little for each token, and needs no second W.

Shapes: T tokens, I in, O out, R ranks of all adapters, P = O + R.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from sintonia.models.lora import LoraLinear
from sintonia.models.products import times, times_transposed


@dataclass(frozen=True)
class _Update:
    """Where one adapter's part of a joined product lies."""

    layer: LoraLinear
    outputs: slice
    ranks: slice
    """Among the P: first the trained ones, then those of a start that is taken off."""

    @property
    def trained(self) -> slice:
        """The trained ones of ``ranks``."""
        return slice(self.ranks.start, self.ranks.start + self.layer.lora_a.shape[0])


class Joined:
    """Linear layers with frozen weights that read the same input."""

    def __init__(self, *layers: nn.Module) -> None:
        bases: list[Any] = [getattr(layer, "base", layer) for layer in layers]
        self._sizes = [base.weight.shape[0] for base in bases]
        self.num_outputs = first_rank = sum(self._sizes)
        self._updates: list[_Update] = []
        for layer, end, size in zip(layers, accumulate(self._sizes), self._sizes, strict=True):
            if isinstance(layer, LoraLinear):
                ranks = slice(first_rank, first_rank + layer.factors()[0].shape[0])
                self._updates.append(_Update(layer, slice(end - size, end), ranks))
                first_rank = ranks.stop
        self._versions: list[int] = []
        """Of every A, as its rows were written."""
        self._weight_PI = bases[0].weight.new_empty(first_rank, bases[0].weight.shape[1])
        for base, part in zip(bases, self.parts(), strict=True):
            part.copy_(base.weight.detach())
            base.weight.data = part  # the modules share the memory
        biases = [base.bias for base in bases]
        self._bias_O = None if biases[0] is None else torch.cat([b.detach() for b in biases])

    def parts(self) -> Sequence[Tensor]:
        """Return the weight of each layer."""
        return self._weight_PI[: self.num_outputs].split(self._sizes)

    @property
    def factors(self) -> list[Tensor]:
        """A and B of each adapter, in the order of the gradients."""
        return [f for one in self._updates for f in (one.layer.lora_a, one.layer.lora_b)]

    def apply(self, x_TI: Tensor) -> Tensor:
        """Return the layers' results and ``x A^T`` beside them: [T, P]."""
        y_TP = self._product(x_TI)
        if self._bias_O is not None:
            self.results(y_TP).add_(self._bias_O)
        for one in self._updates:
            _, b_OR = one.layer.factors()
            y_TP[:, one.outputs].addmm_(y_TP[:, one.ranks], b_OR.t(), alpha=one.layer.scale)
        return y_TP

    def add_to(self, residual_TO: Tensor, x_TI: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``residual`` and the layers' results, and ``x A^T``, each in its own memory."""
        y_TP = self.apply(x_TI)
        return residual_TO + self.results(y_TP), self.reduced(y_TP).clone()

    def results(self, y_TP: Tensor) -> Tensor:
        """Return the layers' results, or the room for their gradients: [T, O], a view."""
        return y_TP[:, : self.num_outputs]

    def reduced(self, y_TP: Tensor) -> Tensor:
        """Return ``x A^T``: [T, R], a view."""
        return y_TP[:, self.num_outputs :]

    def room_for_gradient(self, tokens: int) -> Tensor:
        """Return [T, P] whose results are to be filled before :meth:`gradients`."""
        return self._weight_PI.new_empty(tokens, len(self._weight_PI))

    def joined_gradient(self, grad_TO: Tensor) -> Tensor:
        """Return ``grad_TO`` with room for what :meth:`gradients` adds to it."""
        grad_TP = self.room_for_gradient(len(grad_TO))
        self.results(grad_TP).copy_(grad_TO)
        return grad_TP

    def gradients(self, grad_TP: Tensor, x_TI: Tensor, reduced_TR: Tensor) -> list[Tensor]:
        """Return the gradients of :attr:`factors`; fill the last columns of ``grad_TP``.

        Its first O columns are the gradient to the results.
        """
        grads_b = []
        for one in self._updates:
            _, b_OR = one.layer.factors()
            part_TO, back_TR = grad_TP[:, one.outputs], grad_TP[:, one.ranks]
            torch.addmm(back_TR, part_TO, b_OR, beta=0, alpha=one.layer.scale, out=back_TR)
            trained_TR = self._among(one.trained, reduced_TR)
            grads_b.append((trained_TR.t() @ part_TO).mul_(one.layer.scale).t())
        grads_IR = (self.reduced(grad_TP).t() @ x_TI).t()
        grads_a = [self._among(one.trained, grads_IR).t() for one in self._updates]
        return [grad for pair in zip(grads_a, grads_b, strict=True) for grad in pair]

    def input_gradient(self, grad_TP: Tensor) -> Tensor:
        """Return the gradient to the input, once :meth:`gradients` has filled ``grad_TP``."""
        return times(grad_TP, self._weight_PI)

    def _among(self, ranks: slice, of_all: Tensor) -> Tensor:
        """Return the columns of ``ranks``, which count from O on."""
        return of_all[:, ranks.start - self.num_outputs : ranks.stop - self.num_outputs]

    def _product(self, x_TI: Tensor) -> Tensor:
        # Whatever changes the factors of an adapter writes its A.
        versions = [one.layer.lora_a._version for one in self._updates]  # noqa: SLF001
        if versions != self._versions:
            for one in self._updates:
                self._weight_PI[one.ranks].copy_(one.layer.factors()[0])
            self._versions = versions
        return times_transposed(x_TI, self._weight_PI)
