"""Loading a base for training, with a check that it follows a forest.

Some families accept another attention function and do not call it, and their results would be
wrong without a word. So a loaded model first answers a small forest of two branches, which must
equal the separate sequences, with one attention call for each layer. A model that does not is
left with its own attention and computes each row by itself: slower, and right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sintonia.data.forest import EncodedSequence, Forest, build_forest
from sintonia.errors import RefusedModel
from sintonia.models import attention
from sintonia.models.attention import NAME, ForestOnDevice
from sintonia.models.quantized import quantize
from sintonia.runs.memory import is_out_of_memory

_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference that rounding may leave, as a part of the largest logit."""
_WINDOW = 8
"""Sliding windows are narrowed to this for the check, so that a short forest is longer."""
_LAYER_KINDS = {"full_attention", "sliding_attention"}
_LOAD_ERRORS = (ValueError, KeyError, OSError, ImportError, RuntimeError, SafetensorError)
_PROBE_ERRORS = (
    RefusedModel,
    TypeError,
    AttributeError,
    ValueError,
    KeyError,
    IndexError,
    RuntimeError,
)
"""What a family does that does not take, or does not pass on, what a forest needs."""


@dataclass(frozen=True)
class Place:
    """Where a model's numbers lie and how wide they are."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    quantized: tuple[str, ...] = ()
    """Names of the linear layers whose weights are kept in four bits."""


def load_base(folder: Path, place: Place | None = None) -> PreTrainedModel:
    """Return the model in ``folder``, attending along forests if its family can.

    ``attention.is_used_by`` tells whether it does; otherwise each row is computed by itself, with
    the model's own attention. Raises ``RefusedModel`` for an architecture that transformers does
    not know, for missing weights, and for a model that looks ahead. Want of memory is raised as it
    came.
    """
    place = place or Place()
    attention.register()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config.output_router_logits = False  # a mixture's balancing loss is not what was asked for
        model = _load_following(folder, config, place)
        if model is None:  # anew: some families build their attention when they are made
            model = _load(folder, config, place, None)
            check_causal(model)
    except _LOAD_ERRORS as problem:
        if is_out_of_memory(problem):
            raise
        raise RefusedModel(f"{folder.name} cannot be loaded: {problem}") from None
    return model


def _load_following(folder: Path, config: PretrainedConfig, place: Place) -> PreTrainedModel | None:
    """Return the model if it follows a forest."""
    try:
        model = _load(folder, config, place, NAME)
    except KeyError:  # a family that looks its attention up in a list of its own
        return None
    with _narrow_windows(model):
        return model if follows_forest(model) else None


def _load(
    folder: Path, config: PretrainedConfig, place: Place, attention_name: str | None
) -> PreTrainedModel:
    """Load with this attention; ``None`` is the family's own choice."""
    model: PreTrainedModel
    model, loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=place.dtype,
        attn_implementation=attention_name,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    check_complete(folder.name, loaded)
    quantize(model, place.quantized, torch.device(place.device))
    model.to(place.device)
    return model.eval()


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


@torch.no_grad()
def follows_forest(model: PreTrainedModel) -> bool:
    """Tell whether a forest's logits are those of separate rows and of the model's own attention.

    The model is left with the forest's attention. Its windows are to be narrow: the forest has to
    be longer.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if not attention.is_used_by(model) or kinds - _LAYER_KINDS:
        return False
    branches = _branches(model)
    try:
        together, calls = _logits_by_sequence(model, build_forest(branches))
        alone = [_logits_by_sequence(model, build_forest([branch]))[0][0] for branch in branches]
    except _PROBE_ERRORS as problem:
        if is_out_of_memory(problem):  # of the machine, not of the family
            raise
        return False
    if calls != model.config.get_text_config().num_hidden_layers:
        return False
    own = [_own_logits(model, branch) for branch in branches]
    return all(
        _are_close(found, row) and _are_close(found, expected)
        for found, row, expected in zip(together, alone, own, strict=True)
    )


@torch.no_grad()
def check_causal(model: PreTrainedModel) -> None:
    """Raise ``RefusedModel`` for a model whose outputs depend on later tokens."""
    first, second = (branch.tokens for branch in _branches(model))
    shared = int(np.flatnonzero(first != second)[0])
    before = [_plain_logits(model, tokens)[:shared] for tokens in (first, second)]
    if not _are_close(*before):
        raise RefusedModel(
            f"{type(model).__name__} looks at the tokens after the one that it predicts from; "
            "it cannot be trained here. Use a causal language model."
        )


def _branches(model: PreTrainedModel) -> list[EncodedSequence]:
    """Return two sequences that begin alike and are longer than a narrow window."""
    numbers = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    stem = numbers.integers(0, vocabulary, _WINDOW + 6, dtype=np.int32)
    tails = [numbers.integers(0, vocabulary, 3, dtype=np.int32) for _ in range(2)]
    return [EncodedSequence(np.concatenate([stem, t]), len(stem), 1.0, 0) for t in tails]


def _are_close(found: Tensor, expected: Tensor) -> bool:
    tolerance = _TOLERANCES[found.dtype] * float(expected.abs().max())
    return float((found - expected).abs().max()) <= tolerance


@contextmanager
def _narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Let the sliding windows of ``model`` be narrow for a while."""
    holders: list[Any] = [model.config.get_text_config(), *model.modules()]
    wide = [
        (holder, window)
        for holder in holders
        if type(window := getattr(holder, "sliding_window", None)) is int and window > _WINDOW
    ]
    for holder, _ in wide:
        holder.sliding_window = _WINDOW
    try:
        yield
    finally:
        for holder, window in wide:
            holder.sliding_window = window


def _own_logits(model: PreTrainedModel, sequence: EncodedSequence) -> Tensor:
    """Return what the model's own attention computes for the targets of ``sequence``."""
    model.set_attn_implementation("eager")
    try:
        logits = _plain_logits(model, sequence.tokens)
    finally:
        model.set_attn_implementation(NAME)
    return logits[sequence.num_prompt_tokens - 1 : -1]


def _plain_logits(model: PreTrainedModel, tokens: np.ndarray[Any, Any]) -> Tensor:
    ids = torch.from_numpy(tokens.astype(np.int64))[None].to(model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def _logits_by_sequence(model: PreTrainedModel, forest: Forest) -> tuple[list[Tensor], int]:
    """Return the logits that predict each sequence's targets, and the calls of attention."""
    pattern = ForestOnDevice.of(forest, model.device)
    logits = model(
        input_ids=pattern.tokens_T[None],
        position_ids=pattern.positions_T[None],
        use_cache=False,
        forest=pattern,
    ).logits[0]
    rows = [forest.predict_from_N[forest.sequence_of_N == s] for s in range(forest.num_sequences)]
    return [logits[torch.from_numpy(row).to(logits.device)] for row in rows], pattern.calls
