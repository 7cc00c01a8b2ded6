"""Random models of many families, and waiting; what tests import beside the fixtures.

Not in ``conftest.py``: several folders have one, so that name is ambiguous in an import.
"""

from __future__ import annotations

import time
from pathlib import Path

TINY_FAMILIES = (
    "llama",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_oss",
    "mixtral",
    "olmo2",
    "phi3",
)
"""Families that follow a forest."""
SEPARATE_FAMILIES = ("bloom", "falcon", "gptj", "mpt", "qwen3_next")
"""Families that compute row by row."""


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
    gpt = {
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
    }
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    own = {
        "gpt2": gpt,
        "bloom": {"vocab_size": 258, "hidden_size": 64, "n_layer": 2, "n_head": 4},
        "falcon": {
            "vocab_size": 258,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "hidden_dropout": 0.2,
            "attention_dropout": 0.2,
        },
        "gptj": {**gpt, "rotary_dim": 8},
        "mpt": {"vocab_size": 258, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
        "gemma2": {
            **sizes,
            "sliding_window": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 16,
        },
        "gpt_oss": {**sizes, **experts, "sliding_window": 8},
        "mixtral": {**sizes, **experts, "output_router_logits": True},
        "qwen3_next": {
            **sizes,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
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
