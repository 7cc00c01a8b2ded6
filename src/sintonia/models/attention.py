"""Forest attention, registered with transformers under one name.

The model's own code stays untouched: it hands queries, keys and values to the function that
its configuration names. The forest arrives as a keyword of the forward call, in recomputation
under checkpointing too. Shapes: B = 1, H heads, K key heads, T tokens, D of a head.

On a processor the pattern is a few blocks (``data/cover.py``), each through the flash kernel of
torch; elsewhere, and where a layer looks less far than the forest is deep, a mask of T x T.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sintonia.data.cover import cover
from sintonia.data.forest import Forest
from sintonia.errors import RefusedModel
from sintonia.models.blocks import Blocks, attend

NAME = "sintonia_forest"


@dataclass
class ForestOnDevice:
    """A forest's attention pattern as tensors, and how often attention was asked for it."""

    forest: Forest
    device: torch.device
    wanted_U: Tensor | None = None
    """The tokens whose outputs are asked for, ascending; ``None``: all. A hint: others may be 0."""
    windows: dict[int, Tensor] = field(default_factory=dict)
    """The mask narrowed to each sliding window that the model has."""
    calls: int = 0

    @cached_property
    def positions_T(self) -> Tensor:  # noqa: N802
        """Depth of each token in its tree."""
        return torch.from_numpy(self.forest.positions_T).to(self.device)

    @cached_property
    def blocks(self) -> Blocks:
        """The pattern as blocks."""
        return Blocks.of(cover(self.forest.subtree_end_T))

    @cached_property
    def mask_TT(self) -> Tensor:  # noqa: N802
        """True where a query (row) sees a key (column)."""
        place_T = torch.arange(self.forest.num_tokens, device=self.device)
        end_T = torch.from_numpy(self.forest.subtree_end_T).to(self.device)
        return (place_T <= place_T[:, None]) & (place_T[:, None] < end_T)

    def narrows(self, window: int | None) -> bool:
        """Tell whether some token of the forest is too far from another for this window."""
        return window is not None and int(self.forest.positions_T.max()) >= window

    def within(self, window: int | None) -> Tensor:
        """Return the mask for a layer with this sliding window; positions decide, not places."""
        if window is None or not self.narrows(window):
            return self.mask_TT
        if window not in self.windows:
            distance_TT = self.positions_T[:, None] - self.positions_T
            self.windows[window] = self.mask_TT & (distance_TT < window)
        return self.windows[window]


def forest_attention(  # noqa: PLR0913, PLR0917  # the signature is given by transformers
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend along the branches of the forest that the forward call was given.

    Raises ``RefusedModel`` for what this function does not honour.
    """
    forest: ForestOnDevice | None = kwargs.get("forest")
    if forest is None:
        raise RefusedModel(
            f"{type(module).__name__} keeps what it is given from its attention; "
            "such models cannot be trained here."
        )
    if dropout:
        raise RefusedModel("Attention dropout does not go with shared prefixes; set it to 0.")
    forest.calls += 1
    # Under autocast rotations widen what projections rounded.
    query_BHTD, key_BKTD = query_BHTD.to(value_BKTD.dtype), key_BKTD.to(value_BKTD.dtype)
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    window, softcap, sinks_H = (kwargs.get(k) for k in ("sliding_window", "softcap", "s_aux"))
    if softcap is not None or sinks_H is not None:
        scores = _Scores(scale, softcap, sinks_H)
        attended_BHTD = scores.attend(query_BHTD, key_BKTD, value_BKTD, forest.within(window))
    elif query_BHTD.device.type == "cpu" and not forest.narrows(window):
        attended_BHTD = attend(query_BHTD, key_BKTD, value_BKTD, forest.blocks, scale)
    else:
        attended_BHTD = scaled_dot_product_attention(
            query_BHTD,
            key_BKTD,
            value_BKTD,
            attn_mask=forest.within(window),
            scale=scale,
            enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
        )
    return attended_BHTD.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class _Scores:
    """Attention written out, for models that change the scores themselves."""

    scale: float
    softcap: float | None
    """Scores become ``softcap * tanh(score / softcap)`` (Gemma 2)."""
    sinks_H: Tensor | None
    """A score for attending to nothing, one for each head (GPT-OSS)."""

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, mask_TT: Tensor
    ) -> Tensor:
        """Return what each query attends to: [B, H, T, D]."""
        repeats = query_BHTD.shape[1] // key_BKTD.shape[1]
        key_BHTD = key_BKTD.repeat_interleave(repeats, dim=1)
        scores_BHTT = query_BHTD @ key_BHTD.transpose(2, 3) * self.scale
        if self.softcap is not None:
            scores_BHTT = torch.tanh(scores_BHTT / self.softcap) * self.softcap
        scores_BHTT = scores_BHTT.masked_fill(~mask_TT, float("-inf"))
        if self.sinks_H is not None:
            sinks_BHT1 = self.sinks_H.view(1, -1, 1, 1).expand(*scores_BHTT.shape[:3], 1)
            scores_BHTT = torch.cat([scores_BHTT, sinks_BHT1.to(scores_BHTT)], dim=3)
        weights_BHTT = scores_BHTT.softmax(dim=3, dtype=torch.float32)[..., : mask_TT.shape[1]]
        return weights_BHTT.to(value_BKTD) @ value_BKTD.repeat_interleave(repeats, dim=1)


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Return no mask; the forest is the mask."""


def is_used_by(model: PreTrainedModel) -> bool:
    """Tell whether ``model`` attends along forests; otherwise it computes row by row."""
    return bool(model.config._attn_implementation == NAME)  # noqa: SLF001


def register() -> None:
    """Make the name known to transformers; repeating it changes nothing."""
    AttentionInterface.register(NAME, forest_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
