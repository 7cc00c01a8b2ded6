"""Forest attention, registered with transformers under one name.

The model's own code stays untouched: it hands queries, keys and values to the function that
its configuration names. The forest arrives as a keyword of the forward call, in recomputation
under checkpointing too. Shapes: B = 1, H heads, K key heads, T tokens, D of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from sintonia.data.forest import Forest
from sintonia.errors import RefusedModel

NAME = "sintonia_forest"


@dataclass
class ForestOnDevice:
    """A forest's attention pattern as tensors, and how often attention was asked for it."""

    positions_T: Tensor
    mask_TT: Tensor
    """True where a query (row) sees a key (column)."""
    windows: dict[int, Tensor] = field(default_factory=dict)
    """The mask narrowed to each sliding window that the model has."""
    calls: int = 0

    @classmethod
    def of(cls, forest: Forest, device: torch.device) -> ForestOnDevice:
        """Build the pattern of ``forest`` on ``device``."""
        place_T = torch.arange(forest.num_tokens, device=device)
        end_T = torch.from_numpy(forest.subtree_end_T).to(device)
        mask_TT = (place_T <= place_T[:, None]) & (place_T[:, None] < end_T)
        return cls(torch.from_numpy(forest.positions_T).to(device), mask_TT)

    def within(self, window: int | None) -> Tensor:
        """Return the mask for a layer with this sliding window; positions decide, not places."""
        if window is None:
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
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise RefusedModel(
            f"{type(module).__name__} caps its scores or has attention sinks; such models "
            "cannot be trained yet."
        )
    if dropout:
        raise RefusedModel("Attention dropout does not go with shared prefixes; set it to 0.")
    forest.calls += 1
    attended_BHTD = scaled_dot_product_attention(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        attn_mask=forest.within(kwargs.get("sliding_window")),
        scale=scaling,
        enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
    )
    return attended_BHTD.transpose(1, 2).contiguous(), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Return no mask; the forest is the mask."""


def register() -> None:
    """Make the name known to transformers; repeating it changes nothing."""
    AttentionInterface.register(NAME, forest_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
