"""Engines over tiny random models, driven as the server drives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sintonia.generation.base import (
    Engine,
    FinishReason,
    GenerationRequest,
    ModelRef,
    SamplingParams,
)
from sintonia.settings import Settings

MODEL_TOKENS = 258


@dataclass
class Answer:
    """What a request led to."""

    token_ids: list[int]
    finish_reason: FinishReason


def prompt(number: int, length: int = 12) -> tuple[int, ...]:
    """Some tokens that differ from number to number."""
    return tuple((number * 37 + i * i * 11 + i) % 256 for i in range(length))


def request(base: Path, prompt_ids, *, adapter: Path | None = None, max_tokens=16, **sampling):
    """A request for ``base``; hashes are names here, the folders have no manifest."""
    model = ModelRef(str(base), base.name, *((str(adapter), adapter.name) if adapter else ()))
    values = {"temperature": 0.0, **sampling}
    return GenerationRequest(
        "r", model, tuple(prompt_ids), SamplingParams(max_tokens=max_tokens, **values)
    )


async def answer(engine: Engine, wanted: GenerationRequest) -> Answer:
    """Read an answer to its end."""
    token_ids: list[int] = []
    reason = None
    async for chunk in engine.stream(wanted):
        assert reason is None, "a chunk after the last one"
        token_ids.extend(chunk.token_ids)
        reason = chunk.finish_reason
    assert reason is not None
    return Answer(token_ids, reason)


async def answers(engine: Engine, wanted) -> list[Answer]:
    """Read the answers to several requests at once."""
    return list(await asyncio.gather(*(answer(engine, one) for one in wanted)))


async def poll(condition: Callable, timeout_seconds: float = 20.0) -> None:
    """Wait until the awaited ``condition()`` is true."""
    async with asyncio.timeout(timeout_seconds):
        while not await condition():  # noqa: ASYNC110 - what is polled lives in another process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def native_engine(limits=None, **settings):
    """A native engine that is closed at the end."""
    from sintonia.generation.engines.native.engine import NativeEngine

    engine = NativeEngine(Settings(threads=1, **settings), limits)
    try:
        yield engine
    finally:
        await engine.close()


SIZES = {
    "vocab_size": MODEL_TOKENS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
GPT2 = {"vocab_size": MODEL_TOKENS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024}
FAMILIES = {
    "llama": SIZES,
    "qwen3": SIZES,
    "mistral": {**SIZES, "sliding_window": 8},
    "gemma2": {**SIZES, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {**SIZES, "sliding_window": 8},
    "gpt2": {**GPT2, "bos_token_id": 256, "eos_token_id": 257},
}


def tiny_model(family: str, seed: int = 0):
    """A random model; its weights are large enough for its answers to vary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(4)
    return model


def save_base(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """Save a tiny model; return its folder."""
    path = folder / f"{family}-{seed}"
    tiny_model(family, seed).save_pretrained(path)
    return path


def save_adapter(folder: Path, seed: int, family: str = "llama", **options) -> Path:
    """Save a random adapter, made by PEFT, over the tiny model of seed 0; return its folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    path = folder / f"adapter-{family}-{seed}"
    values = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    model = get_peft_model(tiny_model(family), LoraConfig(task_type="CAUSAL_LM", **values))
    torch.manual_seed(1000 + seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(path, save_embedding_layers=False)
    return path


def greedy_by_transformers(model, prompt_ids, max_tokens: int = 16) -> list[int]:
    """What transformers' own ``generate`` answers."""
    import torch

    ids = torch.tensor([prompt_ids])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt_ids) :].tolist()
