"""How far the tokens of a prompt have got their log-probabilities.

Invariant: each token but the first gets one, once and in order, however the prompt is cut into
chunks and however often it is computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sintonia.generation.base import SamplingParams, TokenLogprob
from sintonia.generation.engines.native.logprobs import logprobs_of
from sintonia.generation.engines.native.sampling import require_numbers


class PromptScores:
    """The log-probabilities of one prompt, chunk by chunk."""

    def __init__(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        self._prompt_ids = prompt_ids
        self._top = sampling.top_logprobs or 0
        self._next = 1 if sampling.prompt_logprobs else len(prompt_ids)
        """The place of the token that is the next to get its log-probability."""

    def rows_wanted(self, past: int, count: int) -> int:
        """Return how many of the last logits of a step are needed for this.

        The step computes the ``count`` tokens after ``past`` ones.
        """
        return count if self._next < min(past + count + 1, len(self._prompt_ids)) else 0

    def read(self, logits_NV: Tensor, past: int) -> tuple[TokenLogprob, ...]:
        """Return the log-probabilities that a step leads to.

        ``logits_NV`` are those after the tokens from ``past`` on. Raises ``ServerError`` when
        they are not numbers.
        """
        stop = min(past + 1 + len(logits_NV), len(self._prompt_ids))
        rows_NV = logits_NV[self._next - past - 1 : stop - past - 1]
        require_numbers(rows_NV)
        found = logprobs_of(rows_NV, self._prompt_ids[self._next : stop], self._top)
        self._next = stop
        return found
