"""What the model thought of tokens: log-probabilities out of its logits.

Shapes: N places, V tokens of the vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sintonia.generation.base import TokenLogprob

_ROWS_AT_ONCE = 32
"""What is computed in between is as large as these rows of logits."""


def logprobs_of(logits_NV: Tensor, token_ids: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    """Return for each row what its distribution says of its token and of the ``top`` likeliest.

    Natural logarithms, computed in float32.
    """
    wanted_N = torch.tensor(token_ids, dtype=torch.long)
    found: list[TokenLogprob] = []
    parts = zip(logits_NV.split(_ROWS_AT_ONCE), wanted_N.split(_ROWS_AT_ONCE), strict=True)
    for rows_NV, ids_N in parts:
        found += _of_rows(rows_NV.float(), ids_N, min(top, logits_NV.shape[1]))
    return tuple(found)


def _of_rows(logits_NV: Tensor, token_ids_N: Tensor, top: int) -> list[TokenLogprob]:
    # Not log_softmax of all of V: a few of its values are wanted.
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    own_N = (logits_NV.gather(1, token_ids_N[:, None]) - total_N1)[:, 0]
    if top == 0:
        return [TokenLogprob(logprob) for logprob in own_N.tolist()]
    likely_NK, ids_NK = logits_NV.topk(top)
    likely = (likely_NK - total_N1).tolist()
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids_NK.tolist(), likely, strict=True)]
    return [TokenLogprob(*pair) for pair in zip(own_N.tolist(), tops, strict=True)]
