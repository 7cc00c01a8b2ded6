"""Scoring rows one by one, with the model's own attention, for families that follow no forest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sintonia.data.forest import Forest


def logits_of_rows(model: PreTrainedModel, forest: Forest, places_U: Tensor) -> Tensor:
    """Return the logits [U, vocabulary] at the ascending ``places_U`` of ``forest``.

    Each tree is one sequence, because rows that such a model gets are laid out apart.
    """
    starts = np.flatnonzero(forest.positions_T == 0)
    ends = np.append(starts[1:], forest.num_tokens)
    assert len(starts) == forest.num_sequences, "the rows share nothing"
    tokens_T = torch.from_numpy(forest.tokens_T).to(model.device)
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        wanted = places_U[(places_U >= start) & (places_U < end)] - start
        row = tokens_T[None, start:end]
        output = model(input_ids=row, logits_to_keep=wanted, use_cache=False)
        found.append(output.logits[0])
    return torch.cat(found)
