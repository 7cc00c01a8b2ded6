"""The engine that runs models with torch and transformers.

``engine`` is the rim, ``scheduler`` decides who computes, ``runner`` computes, ``residency``
keeps the weights, ``attention``, ``cache``, ``linear``, ``adapters``, ``sampling``, ``adjustment``,
``logprobs`` and ``prompt_scores`` are the parts of a step.
"""

from __future__ import annotations

from transformers.utils import logging

from sintonia.generation.engines.native.engine import NativeEngine
from sintonia.settings import Settings


def create(settings: Settings) -> NativeEngine:
    """Make the engine; weights are loaded when a request first asks for them."""
    logging.disable_progress_bar()
    return NativeEngine(settings)
