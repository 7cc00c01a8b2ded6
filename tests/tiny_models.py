"""Random models of many families, and waiting; what tests import beside the fixtures.

Not in ``conftest.py``: several folders have one, so that name is ambiguous in an import.
"""

from __future__ import annotations

import time
from pathlib import Path

TINY_FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "gpt2", "phi3", "olmo2")


def save_tiny(family: str, folder: Path, tokenizer_json: str) -> None:
    """Write a random model of ``family`` with the tiny tokenizer."""
    tiny_model(family).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")


def tiny_model(family: str, seed: int = 0):
    """Return a random model of ``family`` with 258 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 258,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 257,
    }
    own = {
        "gpt2": {
            "vocab_size": 258,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        },
        "gemma3": {**sizes, "model_type": "gemma3_text", "sliding_window": 8},
        "mistral": {**sizes, "sliding_window": 8},
    }
    values = own.get(family, sizes)
    kind = values.get("model_type", family)
    config = AutoConfig.for_model(**{"model_type": kind, **values})
    return AutoModelForCausalLM.from_config(config).float()


def wait_until(condition, timeout_seconds: float = 30.0, message: str = "") -> None:
    """Poll ``condition`` until it is true; fail after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, message or f"still false: {condition}"
        time.sleep(0.02)
