"""Attention along a forest through FlexAttention (Dong et al. 2024), on a GPU.

The pattern goes in as a block mask that is made from the forest's tiles (``data/tiles.py``), and
what a family does to its scores as a function that is compiled into the kernel. Forests fill
whole tiles, so a kernel is compiled for few sizes: torch makes a second, dynamic one when it meets
the second size, and no further ones.

Shapes: B = 1, H heads, K key heads, T tokens, D of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from sintonia.data.forest import EncodedSequence, Forest, build_forest
from sintonia.data.tiles import BoolArray, tiles
from sintonia.models.scores import Scores

TILE = 128
"""Queries and keys of a tile; FlexAttention's own usual size."""
_KERNELS = 64
"""More than these (windows, caps, sizes, gradients) are computed without a kernel, which is slow;
torch's own limit is 8."""

Run = Callable[..., Any]
"""``torch.nn.attention.flex_attention.flex_attention``, or what computes the same."""
Modification = Callable[..., Tensor]


@dataclass(frozen=True)
class Flex:
    """FlexAttention on one kind of device."""

    run: Run | None
    """``None`` where it is not used."""
    problem: str | None = None
    """Why not, where it should be."""


@cache
def flex_on(kind: str) -> Flex:
    """Return FlexAttention for devices of this ``kind``, compiled once and tried once.

    On a processor the forest's own blocks are faster, and there it has no gradient.
    """
    if kind != "cuda":
        return Flex(None)
    try:
        run: Run = torch.compile(  # type: ignore[call-overload]  # which lacks the limit
            flex_attention, recompile_limit=_KERNELS
        )
        _try(run, torch.device(kind))
    except (RuntimeError, ImportError, OSError) as problem:  # no Triton, no C compiler, an old GPU
        return Flex(None, f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}")
    return Flex(run)


def attend(
    run: Run,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    scores: Scores,
    mask: BlockMask,
) -> Tensor:
    """Return what each token attends to along its branch: [B, H, T, D]. Differentiable."""
    out_BHTD, aux = run(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        score_mod=None if scores.softcap is None else _capped(scores.softcap),
        block_mask=mask,
        scale=scores.scale,
        enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
        return_aux=AuxRequest(lse=scores.sinks_H is not None),
    )
    if scores.sinks_H is None:
        return out_BHTD
    # A sink is one more term of the softmax's sum: exp(lse) / (exp(lse) + exp(sink)) is left.
    part_BHT = torch.sigmoid(aux.lse - scores.sinks_H.view(1, -1, 1).to(aux.lse))
    return out_BHTD * part_BHT[..., None].to(out_BHTD)


def block_mask(forest: Forest, window: int | None, device: torch.device) -> BlockMask:
    """Return the pattern of ``forest``, which fills whole tiles, for a layer with this window."""
    found = tiles(forest, TILE, window)
    mask = BlockMask.from_kv_blocks(
        *_listed(found.partial_BB),
        *_listed(found.full_BB),
        BLOCK_SIZE=TILE,
        mask_mod=_sees(forest, window, device),
    )
    return mask.to(device)


def _listed(tiles_BB: BoolArray) -> tuple[Tensor, Tensor]:
    """Return for each row how many tiles it has and which ones, those first."""
    counts_B = tiles_BB.sum(axis=1, dtype=np.int32)
    order_BB = np.argsort(~tiles_BB, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(counts_B)[None, None], torch.from_numpy(order_BB)[None, None]


def _sees(forest: Forest, window: int | None, device: torch.device) -> Modification:
    """Return which keys a query sees, for the tiles that are seen in part."""
    end_T = torch.from_numpy(forest.subtree_end_T.astype(np.int32)).to(device)
    if window is None:

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < end_T[key])

        return sees
    position_T = torch.from_numpy(forest.positions_T.astype(np.int32)).to(device)
    before_T = position_T - window  # a tensor: a number in the kernel would be compiled in

    def sees_near(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_below = (key <= query) & (query < end_T[key])
        return is_below & (position_T[key] > before_T[query])

    return sees_near


@cache
def _capped(softcap: float) -> Modification:
    def cap(score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


def _try(run: Run, device: torch.device) -> None:
    """Attend once, forward and backward. Raises whatever keeps it from being compiled."""
    sequence = EncodedSequence(np.zeros(TILE, np.int32), 1, 1.0, 0)
    mask = block_mask(build_forest([sequence]), None, device)
    parts = torch.zeros(3, 1, 1, TILE, 64, dtype=torch.bfloat16, device=device)
    query, key, value = (part.requires_grad_() for part in parts.unbind())
    attend(run, query, key, value, Scores(1.0), mask).sum().backward()
