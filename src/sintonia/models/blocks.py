"""Attention over the blocks of a forest, on a processor.

Each block goes through torch's flash kernel, which also returns the log-sum-exp of its scores.
Queries that attend to several blocks get their mean, weighted by those (Dao et al. 2022): the
backward pass of a block, given the combined output and log-sum-exp, is that block's exact part.
Shapes: B = 1, H heads, K key heads, T tokens, D of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sintonia.data.cover import Cover, Rectangle

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001


@dataclass(frozen=True)
class Blocks:
    """A cover with its masks as tensors."""

    squares: tuple[tuple[slice, Tensor | None], ...]
    """Tokens that attend among themselves, and what is added to their scores."""
    rectangles: tuple[Rectangle, ...]

    @classmethod
    def of(cls, found: Cover) -> Blocks:
        """Make the masks of ``found``."""
        squares = []
        for square in found.squares:
            mask = None
            if square.mask_BB is not None:
                mask = torch.zeros(square.mask_BB.shape)
                mask.masked_fill_(~torch.from_numpy(square.mask_BB), float("-inf"))
            squares.append((slice(square.start, square.end), mask))
        return cls(tuple(squares), found.rectangles)


@dataclass(frozen=True)
class Projected:
    """Queries, keys and values of one layer."""

    query_BHTD: Tensor
    key_BKTD: Tensor
    value_BKTD: Tensor

    def at(self, queries: slice, keys: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the part of one block."""
        return (
            self.query_BHTD[:, :, queries],
            self.key_BKTD[:, :, keys],
            self.value_BKTD[:, :, keys],
        )


@dataclass(frozen=True)
class Attended:
    """What was attended to, and the log-sum-exp of each query's scores."""

    out_BHTD: Tensor
    """A view of memory in the order T, H, D."""
    lse_BHT: Tensor


def attend_forward(given: Projected, blocks: Blocks, scale: float) -> Attended:
    """Return what each token attends to along its branch."""
    batch, heads, tokens, size = given.query_BHTD.shape
    out_BHTD = given.query_BHTD.new_empty(batch, tokens, heads, size).transpose(1, 2)
    lse_BHT = given.query_BHTD.new_empty(batch, heads, tokens, dtype=torch.float32)
    for at, mask in blocks.squares:
        out, lse = _flash(*given.at(at, at), 0.0, mask is None, attn_mask=mask, scale=scale)
        out_BHTD[:, :, at] = out
        lse_BHT[:, :, at] = lse
    for rectangle in blocks.rectangles:
        queries, keys = _slices(rectangle)
        out, lse = _flash(*given.at(queries, keys), 0.0, False, scale=scale)
        before = lse_BHT[:, :, queries]
        out_BHTD[:, :, queries].lerp_(out, torch.sigmoid(lse - before)[..., None].to(out))
        lse_BHT[:, :, queries] = torch.logaddexp(before, lse)
    return Attended(out_BHTD, lse_BHT)


def attend_backward(
    grad_BHTD: Tensor,
    given: Projected,
    attended: Attended,
    blocks: Blocks,
    scale: float,
    grads: Projected,
) -> None:
    """Fill ``grads`` with the gradients to queries, keys and values."""

    def of_block(queries: slice, keys: slice, mask: Tensor | None, *, is_causal: bool) -> Any:
        out, lse = attended.out_BHTD[:, :, queries], attended.lse_BHT[:, :, queries]
        return _flash_backward(
            grad_BHTD[:, :, queries],
            *given.at(queries, keys),
            out,
            lse,
            0.0,
            is_causal,
            attn_mask=mask,
            scale=scale,
        )

    for at, mask in blocks.squares:
        found = of_block(at, at, mask, is_causal=mask is None)
        for part, grad in zip(grads.at(at, at), found, strict=True):
            part.copy_(grad)
    for rectangle in blocks.rectangles:
        queries, keys = _slices(rectangle)
        found = of_block(queries, keys, None, is_causal=False)
        for part, grad in zip(grads.at(queries, keys), found, strict=True):
            part.add_(grad)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # what autograd hands over
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float
    ) -> Tensor:
        attended = attend_forward(Projected(query, key, value), blocks, scale)
        ctx.save_for_backward(query, key, value, attended.out_BHTD, attended.lse_BHT)
        ctx.blocks, ctx.scale = blocks, scale
        return attended.out_BHTD

    @staticmethod
    def backward(ctx: Any, grad_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        given, attended = Projected(query, key, value), Attended(out, lse)
        grads = Projected(*map(torch.empty_like, (query, key, value)))
        attend_backward(grad_BHTD, given, attended, ctx.blocks, ctx.scale, grads)
        return grads.query_BHTD, grads.key_BKTD, grads.value_BKTD, None, None


def attend(
    query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, blocks: Blocks, scale: float
) -> Tensor:
    """Return what each token attends to along its branch: [B, H, T, D]. Differentiable."""
    attended: Tensor = _BlockAttention.apply(query_BHTD, key_BKTD, value_BKTD, blocks, scale)
    return attended


def _slices(rectangle: Rectangle) -> tuple[slice, slice]:
    queries = slice(rectangle.first_query, rectangle.end_query)
    return queries, slice(rectangle.first_key, rectangle.end_key)
