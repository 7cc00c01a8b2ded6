"""How a family turns products of queries and keys into weights, and attention with all of it.

Shapes: B = 1, H heads, K key heads, T tokens, D of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Scores:
    """What happens to a score before the softmax."""

    scale: float
    softcap: float | None = None
    """Scores become ``softcap * tanh(score / softcap)`` (Gemma 2)."""
    sinks_H: Tensor | None = None
    """A score for attending to nothing, one for each head (GPT-OSS)."""

    @property
    def are_plain(self) -> bool:
        """Whether they are scaled products and nothing else."""
        return self.softcap is None and self.sinks_H is None

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, mask_TT: Tensor
    ) -> Tensor:
        """Return what each query attends to, through a mask of all pairs: [B, H, T, D]."""
        if self.are_plain:
            return scaled_dot_product_attention(
                query_BHTD,
                key_BKTD,
                value_BKTD,
                attn_mask=mask_TT,
                scale=self.scale,
                enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
            )
        return self._written_out(query_BHTD, key_BKTD, value_BKTD, mask_TT)

    def _written_out(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, mask_TT: Tensor
    ) -> Tensor:
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
