"""Loading a base for training, with a check that it follows a forest.

Some families accept another attention function and do not call it, and their results would be
wrong without a word. So a loaded model first answers a small forest of two branches, which must
equal the separate sequences, with one attention call for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sintonia.data.forest import EncodedSequence, Forest, build_forest
from sintonia.errors import RefusedModel
from sintonia.models import attention

_TOLERANCE = 1e-3
"""Largest difference of logits that float32 may leave."""


_LAYER_KINDS = {"full_attention", "sliding_attention"}


def load_base(folder: Path) -> PreTrainedModel:
    """Return the model in ``folder`` in float32, attending along forests.

    Raises ``RefusedModel`` for an architecture that transformers does not know or that does
    not follow a forest.
    """
    attention.register()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention.NAME,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, ImportError, RuntimeError, SafetensorError) as problem:
        raise RefusedModel(f"{folder.name} cannot be loaded: {problem}") from None
    check_complete(folder.name, loaded)
    model.eval()
    check_follows_forest(model)
    return model


def check_complete(name: str, loaded: Mapping[str, Any]) -> None:
    """Raise ``RefusedModel`` unless every weight came from the folder.

    transformers fills a missing one with random numbers and only warns.
    """
    for kind in ("missing_keys", "mismatched_keys"):
        if loaded[kind]:
            first = sorted(map(str, loaded[kind]))[0]
            raise RefusedModel(
                f"{name}: its weights are incomplete ({kind.replace('_', ' ')}: {first}). "
                "Fetch or export the model again."
            )


def check_follows_forest(model: PreTrainedModel) -> None:
    """Raise ``RefusedModel`` unless a forest's logits equal the separate sequences'."""
    window = getattr(model.config, "sliding_window", None) or 0
    length = min(window, 64) + 6
    numbers = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    stem = numbers.integers(0, vocabulary, length, dtype=np.int32)
    branches = [numbers.integers(0, vocabulary, 3, dtype=np.int32) for _ in range(2)]
    sequences = [
        EncodedSequence(np.concatenate([stem, branch]), length, 1.0, 0) for branch in branches
    ]
    together, calls = _logits_by_sequence(model, build_forest(sequences))
    if calls != model.config.get_text_config().num_hidden_layers:
        raise RefusedModel(
            f"{type(model).__name__} does not use the attention it is given; "
            "it cannot be trained here."
        )
    _check_layers(model)
    own = _own_logits(model, sequences[0])
    if float((together[0] - own).abs().max()) > _TOLERANCE:
        raise RefusedModel(
            f"{type(model).__name__} computes something else than its own attention would; "
            "it cannot be trained here."
        )
    for number, sequence in enumerate(sequences):
        alone, _ = _logits_by_sequence(model, build_forest([sequence]))
        difference = float((together[number] - alone[0]).abs().max())
        if difference > _TOLERANCE:
            raise RefusedModel(
                f"{type(model).__name__} does not compute shared prefixes as it computes "
                f"separate rows (logits differ by {difference:.2g}); it cannot be trained here."
            )


def _check_layers(model: PreTrainedModel) -> None:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _LAYER_KINDS
    if kinds:
        raise RefusedModel(
            f"{type(model).__name__} has layers of kind {', '.join(sorted(kinds))}; "
            "it cannot be trained here."
        )


@torch.no_grad()
def _own_logits(model: PreTrainedModel, sequence: EncodedSequence) -> torch.Tensor:
    """Return what the model's own attention computes for the targets of ``sequence``."""
    ids = torch.from_numpy(sequence.tokens.astype(np.int64))[None].to(model.device)
    model.set_attn_implementation("eager")
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    finally:
        model.set_attn_implementation(attention.NAME)
    return logits[sequence.num_prompt_tokens - 1 : -1]


@torch.no_grad()
def _logits_by_sequence(model: PreTrainedModel, forest: Forest) -> tuple[list[torch.Tensor], int]:
    """Return the logits that predict each sequence's targets, and the calls of attention."""
    pattern = attention.ForestOnDevice(forest, model.device)
    logits = model(
        input_ids=torch.from_numpy(forest.tokens_T)[None].to(model.device),
        position_ids=pattern.positions_T[None],
        use_cache=False,
        forest=pattern,
    ).logits[0]
    rows = [forest.predict_from_N[forest.sequence_of_N == s] for s in range(forest.num_sequences)]
    return [logits[torch.from_numpy(row)] for row in rows], pattern.calls
