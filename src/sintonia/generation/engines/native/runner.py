"""One base model in memory and the forward call over many sequences at once.

Invariant: the new tokens of all sequences lie side by side in one row; positions, caches and
adapters are each sequence's own. One forward call at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sintonia.generation.engines.native.attention import BATCH_KEYWORD, Batch, Segment
from sintonia.generation.engines.native.cache import BLOCK_TOKENS, SequenceCache
from sintonia.generation.engines.native.linear import (
    Adapter,
    AdapterRows,
    AdapterSwitch,
    ServedLinear,
)


@dataclass(frozen=True)
class Work:
    """What one sequence wants computed: its next tokens after ``past`` cached ones."""

    token_ids: Sequence[int]
    past: int
    cache: SequenceCache
    adapter: Adapter | None = None
    num_logits: int = 1
    """The logits after that many of its last tokens are wanted."""


@dataclass
class Runner:
    """A base, ready to serve."""

    model: PreTrainedModel
    switch: AdapterSwitch
    linears: dict[str, ServedLinear]
    context_tokens: int
    vocabulary_size: int
    num_layers: int
    token_bytes: int = 0
    """What the keys and values of one token take, in all layers; measured when it is loaded."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes [out, in] of the layers that adapters can change, by path."""
        return {path: linear.shape for path, linear in self.linears.items()}

    def forward(self, works: Sequence[Work]) -> Tensor:
        """Compute ``works``; return the logits [N, V] that each wants, in order.

        Raises ``RuntimeError`` when a layer did not call the attention function.
        """
        order = sorted(range(len(works)), key=lambda index: _place(works[index]))
        ordered = [works[index] for index in order]
        parts = [part for work in ordered for part in _blocks(work)]
        batch = Batch(_segments(parts))
        self.switch.rows = _adapter_rows(batch.segments, parts)
        self.switch.head_rows = _head_rows(parts)
        try:
            logits: Tensor = self.model(**_inputs(parts, batch)).logits[0]
        finally:
            self.switch.rows = self.switch.head_rows = ()
        if len(batch.layers_seen) != self.num_layers:
            raise RuntimeError(
                f"{len(batch.layers_seen)} of {self.num_layers} layers followed the batch"
            )
        return _reordered(logits, ordered, order)


def _place(work: Work) -> tuple[bool, bool, int]:
    """Order single tokens before chunks, the latter by their logits, and equal adapters together.

    So single rows of one adapter are neighbours in the decoder and in the output head.
    """
    adapter = id(work.adapter) if work.adapter else 0
    return len(work.token_ids) > 1, work.num_logits > 1, adapter


def _blocks(work: Work) -> Iterator[Work]:
    """Cut the tokens of a sequence where its blocks end.

    What attention and adapters compute for a block then has the same bits whether the tokens
    before it are computed in the same step, were computed in an earlier one, or long ago for
    another request (``prefixes.py``).
    """
    start, length = 0, len(work.token_ids)
    while start < length:
        past = work.past + start
        stop = min(length, start + BLOCK_TOKENS - past % BLOCK_TOKENS)
        num_logits = max(0, stop - max(start, length - work.num_logits))
        token_ids = work.token_ids[start:stop]
        yield Work(token_ids, past, work.cache, work.adapter, num_logits)
        start = stop


def _segments(works: Sequence[Work]) -> list[Segment]:
    segments, start = [], 0
    for work in works:
        stop = start + len(work.token_ids)
        segments.append(Segment(start, stop, work.past, work.cache))
        start = stop
    return segments


def _inputs(works: Sequence[Work], batch: Batch) -> dict[str, Any]:
    """Return the model's keyword arguments; only the rows that are wanted meet the vocabulary."""
    token_ids = [token_id for work in works for token_id in work.token_ids]
    positions = [work.past + i for work in works for i in range(len(work.token_ids))]
    return {
        "input_ids": torch.tensor([token_ids]),
        "position_ids": torch.tensor([positions]),
        "logits_to_keep": torch.tensor(_rows_wanted(batch.segments, works)),
        "use_cache": False,
        BATCH_KEYWORD: batch,
    }


def _rows_wanted(segments: Sequence[Segment], works: Sequence[Work]) -> list[int]:
    return [
        row
        for segment, work in zip(segments, works, strict=True)
        for row in range(segment.stop - work.num_logits, segment.stop)
    ]


def _reordered(logits_NV: Tensor, ordered: Sequence[Work], order: Sequence[int]) -> Tensor:
    """Return the rows of ``logits_NV``, which are as in ``ordered``, in the order of the works.

    ``order`` has the place in the works of each of ``ordered``.
    """
    parts = logits_NV.split([work.num_logits for work in ordered])
    return torch.cat([parts[place] for place in sorted(range(len(order)), key=order.__getitem__)])


def _adapter_rows(segments: Sequence[Segment], works: Sequence[Work]) -> list[AdapterRows]:
    """Return who serves which rows: neighbouring single rows of one adapter are taken together."""
    pairs = zip(segments, works, strict=True)
    rows = []
    for (is_single, _), group in groupby(pairs, key=_kind_and_adapter):
        members = list(group)
        adapter = members[0][1].adapter
        if adapter is None:
            continue
        spans = [(segment.start, segment.stop) for segment, _ in members]
        if is_single:
            spans = [(spans[0][0], spans[-1][1])]
        rows += [AdapterRows(*span, adapter, single=is_single) for span in spans]
    return rows


def _kind_and_adapter(pair: tuple[Segment, Work]) -> tuple[bool, int]:
    segment, work = pair
    return segment.stop - segment.start == 1, id(work.adapter)


def _head_rows(works: Sequence[Work]) -> list[AdapterRows]:
    """Return the same for the output head, which sees the rows that are wanted of each sequence."""
    asking = [work for work in works if work.num_logits]
    segments, start = [], 0
    for work in asking:
        segments.append(Segment(start, start + work.num_logits, work.past, work.cache))
        start += work.num_logits
    return _adapter_rows(segments, asking)
