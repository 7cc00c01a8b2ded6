"""Forest attention, registered with transformers under one name.

The model's own code stays untouched: it hands queries, keys and values to the function that
its configuration names. The forest arrives as a keyword of the forward call, in recomputation
under checkpointing too. Shapes: B = 1, H heads, K key heads, T tokens, D of a head.

On a processor the pattern is a few blocks (``data/cover.py``), each through the flash kernel of
torch; on a GPU it is a block mask of FlexAttention (``models/flex.py``). Where neither serves, it
is a mask of T x T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sintonia.data.cover import cover
from sintonia.data.forest import Forest
from sintonia.errors import RefusedModel
from sintonia.models import flex
from sintonia.models.blocks import Blocks, attend
from sintonia.models.scores import Scores

NAME = "sintonia_forest"


@dataclass
class ForestOnDevice:
    """A forest's attention pattern as tensors, and how often attention was asked for it."""

    forest: Forest
    device: torch.device
    wanted_U: Tensor | None = None
    """The tokens whose outputs are asked for, ascending; ``None``: all. A hint: others may be 0."""
    flex: flex.Run | None = None
    """FlexAttention, where it computes; the forest then fills whole tiles."""
    windows: dict[int, Tensor] = field(default_factory=dict)
    """The mask narrowed to each sliding window that the model has."""
    block_masks: dict[int | None, BlockMask] = field(default_factory=dict)
    """The same for FlexAttention."""
    calls: int = 0

    @classmethod
    def of(
        cls, forest: Forest, device: torch.device, wanted_U: Tensor | None = None
    ) -> ForestOnDevice:
        """Lay ``forest`` out as ``device`` computes best; its own tokens keep their places."""
        run = flex.flex_on(device.type).run
        laid_out = forest if run is None else forest.filled_to(flex.TILE)
        return cls(laid_out, device, wanted_U, run)

    @cached_property
    def tokens_T(self) -> Tensor:  # noqa: N802
        """What the model reads."""
        return torch.from_numpy(self.forest.tokens_T).to(self.device)

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

    def block_mask(self, window: int | None) -> BlockMask:
        """Return the same for FlexAttention."""
        narrow = window if self.narrows(window) else None
        if narrow not in self.block_masks:
            self.block_masks[narrow] = flex.block_mask(self.forest, narrow, self.device)
        return self.block_masks[narrow]


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
    scores = Scores(scale, kwargs.get("softcap"), kwargs.get("s_aux"))
    asked = _Asked(query_BHTD, key_BKTD, value_BKTD, scores, kwargs.get("sliding_window"), forest)
    attended_BHTD = next(way for serves, way in _WAYS if serves(asked))(asked)
    return attended_BHTD.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class _Asked:
    """One layer's question."""

    query_BHTD: Tensor
    key_BKTD: Tensor
    value_BKTD: Tensor
    scores: Scores
    window: int | None
    forest: ForestOnDevice

    @property
    def projected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        return self.query_BHTD, self.key_BKTD, self.value_BKTD


def _has_flex(asked: _Asked) -> bool:
    return asked.forest.flex is not None


def _through_flex(asked: _Asked) -> Tensor:
    assert asked.forest.flex is not None
    mask = asked.forest.block_mask(asked.window)
    return flex.attend(asked.forest.flex, *asked.projected, asked.scores, mask)


def _has_blocks(asked: _Asked) -> bool:
    is_cpu = asked.query_BHTD.device.type == "cpu"
    return is_cpu and asked.scores.are_plain and not asked.forest.narrows(asked.window)


def _through_blocks(asked: _Asked) -> Tensor:
    return attend(*asked.projected, asked.forest.blocks, asked.scores.scale)


def _always(_asked: _Asked) -> bool:
    return True


def _through_mask(asked: _Asked) -> Tensor:
    return asked.scores.attend(*asked.projected, asked.forest.within(asked.window))


_WAYS: tuple[tuple[Callable[[_Asked], bool], Callable[[_Asked], Tensor]], ...] = (
    (_has_flex, _through_flex),
    (_has_blocks, _through_blocks),
    (_always, _through_mask),
)
"""Ways to compute the same, each with when it serves; the first that does is taken."""


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Return no mask; the forest is the mask."""


def is_used_by(model: PreTrainedModel) -> bool:
    """Tell whether ``model`` attends along forests; otherwise it computes row by row."""
    return bool(model.config._attn_implementation == NAME)  # noqa: SLF001


def register() -> None:
    """Make the name known to transformers; repeating it changes nothing."""
    AttentionInterface.register(NAME, forest_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def keep_out_of_graphs() -> None:
    """Let compiled layers call the function as it is: a forest is no part of a graph."""
    AttentionInterface.register(NAME, _between_graphs)


@torch.compiler.disable
def _between_graphs(*given: Any, **kwargs: Any) -> tuple[Tensor, None]:
    # Layers are compiled for open sizes, and what they call would inherit that: FlexAttention's
    # kernel has numbers such as a soft cap in it and learns by itself that sizes are open.
    with torch._dynamo.config.patch(assume_static_by_default=True):  # noqa: SLF001
        return forest_attention(*given, **kwargs)
