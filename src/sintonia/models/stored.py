"""A model as its folder holds it.

Invariant: weights come from safetensors in that folder alone, each one of them, and no code or
pickle of the folder is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sintonia.errors import RefusedModel


def load_stored(
    folder: Path,
    dtype: torch.dtype,
    *,
    config: PretrainedConfig | None = None,
    attention: str | None = None,
) -> PreTrainedModel:
    """Return the model in ``folder``, with the family's own ``config`` and ``attention`` if None.

    Raises ``RefusedModel`` for missing weights, and what transformers raises for a folder that
    it cannot load.
    """
    model: PreTrainedModel
    model, loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    _check_complete(folder.name, loaded)
    return model


def _check_complete(name: str, loaded: Mapping[str, Any]) -> None:
    """Transformers fills a missing weight with random numbers and only warns."""
    for kind in ("missing_keys", "mismatched_keys"):
        if loaded[kind]:
            first = sorted(map(str, loaded[kind]))[0]
            raise RefusedModel(
                f"{name}: its weights are incomplete ({kind.replace('_', ' ')}: {first}). "
                "Fetch or export the model again."
            )
