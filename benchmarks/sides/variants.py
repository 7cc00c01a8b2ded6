"""The settings of TRL that the training benchmark tries; the best of them counts.

Invariant: a variant changes how TRL computes a step and never what the step learns. One whose
losses are not those of the others is reported with its figure and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BOTH = ("sft", "dpo")
SFT, DPO = ("sft",), ("dpo",)


@dataclass(frozen=True)
class Variant:
    """One way to run TRL over the same batches."""

    name: str
    methods: tuple[str, ...] = BOTH
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of TRL's own configuration."""
    attention: str = "sdpa"
    device_rows: int | None = None
    """Rows computed at once, gradients accumulated over a step's; rows of like length together.
    ``None``: all rows of a step."""
    packs: bool = False
    """Rows computed at once are one packed row, made by TRL's own packing."""
    groups_by_length: bool = False
    """Batches are of rows of like length, on our side too. TRL's own sampler would give the two
    sides other rows in a step."""

    def fits(self, method: str, batch_size: int) -> bool:
        """Tell whether it is something of its own for these batches."""
        rows = self.device_rows
        divides = rows is None or (rows < batch_size and batch_size % rows == 0)
        return method in self.methods and divides


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("plain"),
        Variant("accumulation-4", device_rows=4),
        Variant("accumulation-2", device_rows=2),
        Variant("accumulation-1", device_rows=1),
        Variant("length-grouping", groups_by_length=True),
        Variant("precomputed-reference", DPO, {"precompute_ref_log_probs": True}),
        Variant("padding-free", SFT, {"padding_free": True}),
        Variant("packing-4", SFT, {"packing": True}, device_rows=4, packs=True),
        Variant("eager-attention", attention="eager"),
    )
}
"""By name, in the order in which they are tried. DPOTrainer 1.16 has padding-free switched off and
knows no packing. With sdpa and eager attention, transformers 5.23 keeps flattened rows apart by
their positions; the mask that it makes for it is dense."""
