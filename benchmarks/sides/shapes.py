"""Models of a size and no knowledge: random weights in Llama's layout, for speed alone.

They take another model's tokenizer and template, so that its rows can be learned.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sintonia.data.renderer import Renderer

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "sintonia.json")


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; its vocabulary is the tokenizer's."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    context: int = 8192


SHAPES = {"1b": Shape(2048, 8192, 16, 32, 8), "3b": Shape(3072, 8192, 28, 24, 8)}
"""Llama 3.2's, with 1.07 and 2.97 billion weights over a vocabulary of 49,152."""


def make(shape: Shape, of: Path, folder: Path, dtype: torch.dtype) -> Path:
    """Write a model of ``shape`` that reads as the one in the folder ``of`` does."""
    tokens = Renderer.from_folder(of).num_tokens
    config = LlamaConfig(
        vocab_size=-(-tokens // 64) * 64,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    for name in FILES:
        if (of / name).is_file():
            shutil.copyfile(of / name, folder / name)
    return folder
