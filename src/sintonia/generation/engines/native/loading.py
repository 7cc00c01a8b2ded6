"""From a model folder to a runner that has been seen to compute what the model computes.

Invariant: no code and no pickle from the folder is ever run, and a family whose attention
cannot be served exactly is refused here, not discovered in its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sintonia.errors import DamagedCheckpoint, RefusedModel
from sintonia.generation.engines.native import attention
from sintonia.generation.engines.native.cache import SequenceCache
from sintonia.generation.engines.native.linear import ServedLinear, serve_linears
from sintonia.generation.engines.native.runner import Runner, Work
from sintonia.models.stored import load_stored
from sintonia.sealed import MANIFEST, hash_file, read_json, verify

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_STRETCHED_ROPES = {"longrope", "dynamic"}
_CHECK_TOKENS = (20, 7)
_CHECK_STEPS = (((0, 11), (0, 6)), ((11, 19), (6, 7)), ((19, 20),))
"""For each step and sequence the tokens computed: chunks, single tokens and company."""
_TOLERANCE = 1e-3
"""Of the largest logit; float32 orders of summation differ by about 1e-6 of it."""


def load_base(folder: Path, sha256: str) -> Runner:
    """Load the base in ``folder``, whose manifest has the hash ``sha256`` when there is one.

    Raises ``RefusedModel`` and ``DamagedCheckpoint``.
    """
    check_seal(folder, sha256)
    try:
        config = read_json(folder / "config.json")
        if "auto_map" in config:
            raise _refused(folder, "it asks for code of its own to be run")
        model = load_stored(folder, torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError, SafetensorError) as problem:
        raise _refused(folder, f"it cannot be loaded ({type(problem).__name__})") from problem
    return make_runner(model.eval(), folder)


def make_runner(model: PreTrainedModel, folder: Path) -> Runner:
    """Turn ``model`` into a runner and check it; ``folder`` is named in refusals."""
    config = _text_config(model)
    unserved = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unserved:
        raise _refused(folder, f"it has layers of kind {', '.join(sorted(unserved))}")
    attention.register()
    switch, linears = serve_linears(model, model.get_output_embeddings())
    runner = Runner(
        model=model.requires_grad_(False),
        switch=switch,
        linears=linears,
        context_tokens=_context_tokens(folder, config),
        vocabulary_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
    )
    try:
        _check(runner, folder)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError, RuntimeError) as problem:
        raise _refused(
            folder, f"its family does not work with the engine ({type(problem).__name__})"
        ) from problem
    return runner


def check_seal(folder: Path, sha256: str) -> None:
    """Check a sealed folder's files, and that its manifest has the hash ``sha256``.

    A folder without a manifest is taken as it is. Raises ``DamagedCheckpoint``.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    verify(folder)
    if hash_file(manifest) != sha256:
        raise DamagedCheckpoint(f"{folder.name} holds other weights than those asked for.")


def _text_config(model: PreTrainedModel) -> PretrainedConfig:
    return model.config.get_text_config()


def _context_tokens(folder: Path, config: PretrainedConfig) -> int:
    """Return how many tokens a sequence may have.

    Two kinds of rotary embedding stretch by the longest row of a batch, so that a long request
    would change its neighbours' numbers: they are kept within the length where nothing stretches.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        raise _refused(folder, "its config does not say how long a text may be")
    ropes = getattr(config, "rope_parameters", None) or {}
    parts: list[Mapping[str, Any]] = [ropes, *(r for r in ropes.values() if isinstance(r, dict))]
    if any(part.get("rope_type") in _STRETCHED_ROPES for part in parts):
        originals = [part.get("original_max_position_embeddings") for part in parts]
        originals.append(getattr(config, "original_max_position_embeddings", None))
        return min([limit, *(original for original in originals if original)])
    return limit


@torch.inference_mode()
def _check(runner: Runner, folder: Path) -> None:
    """Compare two short sequences, in chunks and in company, with the model's own attention.

    transformers accepts an attention function that a family then never calls, and layers with a
    state of their own would mix neighbours: both show here.
    """
    sequences = [[(7 * i + 3) % runner.vocabulary_size for i in range(n)] for n in _CHECK_TOKENS]
    runner.model.set_attn_implementation("eager")
    whole = [runner.model(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in sequences]
    runner.model.set_attn_implementation(attention.IMPLEMENTATION)
    for expected, found in zip(whole, _serve_in_steps(runner, sequences), strict=True):
        if (expected - found).abs().max() > _TOLERANCE * expected.abs().max():
            raise _refused(folder, "served with others it computes something else than alone")


def _serve_in_steps(runner: Runner, sequences: list[list[int]]) -> list[Tensor]:
    """Return the logits after the last token of each of ``sequences``, computed in steps."""
    caches = [SequenceCache() for _ in sequences]
    last: dict[int, Tensor] = {}
    seen = _RowCounts(runner.linears)
    for step in _CHECK_STEPS:
        works = [
            Work(sequences[index][start:stop], start, caches[index])
            for index, (start, stop) in enumerate(step)
        ]
        last.update(enumerate(runner.forward(works)))
        seen.expect(sum(len(work.token_ids) for work in works), len(works))
    seen.forget_misfits()
    runner.token_bytes = caches[0].size_bytes // caches[0].capacity_tokens
    return [last[index] for index in range(len(sequences))]


class _RowCounts:
    """Notes how many rows each linear layer is given.

    An adapter can only be added where a layer sees the rows of the batch as they are; an
    expert's layer that sees a selection of them is taken off the list.
    """

    def __init__(self, linears: dict[str, ServedLinear]) -> None:
        self._linears = linears
        self._misfits: set[str] = set()
        self._counts: dict[str, list[int]] = {path: [] for path in linears}
        self._hooks = [
            linear.register_forward_pre_hook(self._note(path)) for path, linear in linears.items()
        ]

    def expect(self, rows: int, head_rows: int) -> None:
        """Compare what was noted since the last time with what a step has."""
        for path, counts in self._counts.items():
            expected = head_rows if self._linears[path].is_head else rows
            if counts != [expected]:
                self._misfits.add(path)
            counts.clear()

    def forget_misfits(self) -> None:
        """Stop noting and take the layers that did not fit off the list."""
        for hook in self._hooks:
            hook.remove()
        for path in self._misfits:
            del self._linears[path]

    def _note(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._counts[path].append(inputs[0].shape[:-1].numel())

        return note


def _refused(folder: Path, reason: str) -> RefusedModel:
    return RefusedModel(
        f"Model folder {folder.name}: {reason}. Use a model with safetensors weights whose "
        "family transformers knows, or another engine."
    )
