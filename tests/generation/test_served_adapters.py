"""Many adapters over one base, against PEFT."""

from __future__ import annotations

import asyncio
import json

import pytest
from engine_kit import (
    answer,
    answers,
    greedy_by_transformers,
    native_engine,
    prompt,
    request,
    save_adapter,
    save_base,
    tiny_model,
)

from sintonia.errors import DamagedCheckpoint, RefusedModel
from sintonia.generation.engines.native.residency import ResidencyLimits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def base(folder):
    return save_base(folder)


@pytest.fixture(scope="module")
def adapters(folder):
    return [save_adapter(folder, seed) for seed in range(3)]


def greedy_by_peft(adapter, prompt_ids, family="llama"):
    from peft import PeftModel

    model = PeftModel.from_pretrained(tiny_model(family), adapter).eval()
    return greedy_by_transformers(model, prompt_ids)


def test_base_and_adapters_in_one_batch_each_equal_their_own_oracle(base, adapters):
    weights = [None, *adapters]
    wanted = [(n, adapter) for n in range(3) for adapter in weights]

    async def run():
        async with native_engine() as engine:
            requests = [request(base, prompt(n, 5 + n), adapter=a) for n, a in wanted]
            return await answers(engine, requests)

    found = [one.token_ids for one in asyncio.run(run())]
    expected = [
        greedy_by_peft(a, prompt(n, 5 + n))
        if a
        else greedy_by_transformers(tiny_model("llama"), prompt(n, 5 + n))
        for n, a in wanted
    ]
    assert found == expected
    assert len({tuple(one) for one in expected}) == len(expected)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"use_rslora": True}),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
        ("gpt2", {"fan_in_fan_out": True, "target_modules": ["c_attn", "c_fc", "c_proj"]}),
    ],
)
def test_logits_equal_pefts(family, options, tmp_path):
    import torch
    from peft import PeftModel

    from sintonia.generation.engines.native.adapters import load_adapter
    from sintonia.generation.engines.native.cache import SequenceCache
    from sintonia.generation.engines.native.loading import load_base
    from sintonia.generation.engines.native.runner import Work

    adapter_folder = save_adapter(tmp_path, 7, family, **options)
    runner = load_base(save_base(tmp_path, family), "")
    adapter = load_adapter(adapter_folder, "", runner.shapes)
    works = [
        Work(prompt(n, length), 0, SequenceCache(), adapter if n else None)
        for n, length in enumerate((9, 1, 1, 20))
    ]
    oracle = PeftModel.from_pretrained(tiny_model(family), adapter_folder).eval()
    with torch.inference_mode():
        found = runner.forward(works)
        for index, work in enumerate(works[1:], start=1):
            expected = oracle(torch.tensor([work.token_ids])).logits[0, -1]
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)


def test_a_seed_means_the_same_tokens_whoever_else_uses_which_adapter(base, adapters):
    wanted = [
        request(base, prompt(n, 4 + 9 * n), adapter=adapters[n % 3], temperature=1.0, seed=n)
        for n in range(9)
    ]

    async def run():
        async with native_engine() as engine:
            alone = [await answer(engine, one) for one in wanted]
            return alone, await answers(engine, wanted)

    alone, together = asyncio.run(run())
    assert alone == together


def test_adapters_are_evicted_by_last_use_and_come_back(base, adapters):
    async def run():
        async with native_engine(ResidencyLimits(adapters=2)) as engine:
            first = [await answer(engine, request(base, prompt(1), adapter=a)) for a in adapters]
            resident = (await engine.status()).resident_adapters
            again = [await answer(engine, request(base, prompt(1), adapter=a)) for a in adapters]
            return first, resident, again

    first, resident, again = asyncio.run(run())
    assert resident == (adapters[1].name, adapters[2].name)
    assert first == again


def test_an_adapter_unloaded_while_it_answers_answers_to_the_end(base, adapters):
    async def run():
        async with native_engine() as engine:
            wanted = request(base, prompt(1), adapter=adapters[0], max_tokens=60)
            stream = engine.stream(wanted)
            tokens = list((await anext(stream)).token_ids)
            await engine.unload(adapters[0].name)
            status = await engine.status()
            assert (status.resident_adapters, status.resident_bases) == ((), (base.name,))
            async for chunk in stream:
                tokens.extend(chunk.token_ids)
            return tokens, await answer(engine, wanted)

    tokens, again = asyncio.run(run())
    assert tokens == again.token_ids


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(base, change, says, tmp_path):
    adapter = save_adapter(tmp_path, 1)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    assert says in refusal(base, adapter)


def test_an_adapter_of_another_base_is_refused(tmp_path, adapters):
    other = save_base(tmp_path, "gpt2")
    assert "its base has no linear layer" in refusal(other, adapters[0])


def test_an_adapter_without_weights_is_refused(base, tmp_path):
    adapter = save_adapter(tmp_path, 1)
    (adapter / "adapter_model.safetensors").unlink()
    assert "cannot be read" in refusal(base, adapter)


def refusal(base, adapter):
    async def run():
        async with native_engine() as engine:
            with pytest.raises(RefusedModel) as caught:
                await answer(engine, request(base, prompt(1), adapter=adapter))
            # The base goes on serving.
            assert len((await answer(engine, request(base, prompt(1)))).token_ids) == 16
            return caught.value.message

    return asyncio.run(run())


def test_a_sealed_adapter_with_changed_weights_is_not_used(base, tmp_path):
    from dataclasses import replace

    from sintonia.sealed import seal

    sealed = tmp_path / "sealed"
    sha256 = seal(save_adapter(tmp_path, 1), sealed)
    wanted = request(base, prompt(1), adapter=sealed)
    wanted = replace(wanted, model=replace(wanted.model, adapter_sha256=sha256))

    async def run():
        async with native_engine() as engine:
            assert (await answer(engine, wanted)).token_ids
            await engine.unload(sha256)
            weights = bytearray((sealed / "adapter_model.safetensors").read_bytes())
            weights[-1] ^= 1
            (sealed / "adapter_model.safetensors").write_bytes(weights)
            with pytest.raises(DamagedCheckpoint):
                await answer(engine, wanted)

    asyncio.run(run())
