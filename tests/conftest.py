"""Tiny real models that many tests use: random weights, a real tokenizer, a real folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

TINY_FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "gpt2", "phi3", "olmo2")


@pytest.fixture(scope="session")
def tiny_tokenizer_json() -> str:
    """A byte-level BPE without merges: 256 bytes and ChatML's tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_json: str) -> Path:
    """A Hugging Face folder with a random Llama of two layers."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny("llama", folder, tiny_tokenizer_json)
    return folder


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


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A home whose library has the random Llama under the name ``tiny``."""
    from sintonia import catalog
    from sintonia.bases.library import Library

    home = tmp_path_factory.mktemp("home")
    Library(home, catalog.load()).add("tiny", tiny_folder)
    return home


@pytest.fixture(scope="session")
def embedded_home() -> Path:
    """A home with the embedded model, kept between test runs beside the environment."""
    from sintonia import catalog
    from sintonia.bases.library import Library

    home = Path(__file__).parents[1] / ".test-home"
    home.mkdir(exist_ok=True)
    Library(home, catalog.load()).fetch("smollm2-135m-instruct", lambda _what, _part: None)
    return home


def wait_until(condition, timeout_seconds: float = 30.0, message: str = "") -> None:
    """Poll ``condition`` until it is true; fail after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, message or f"still false: {condition}"
        time.sleep(0.02)
