"""The native engine on a tiny model: what it answers, alone and in company."""

from __future__ import annotations

import asyncio
import json

import pytest
from engine_kit import (
    FAMILIES,
    MODEL_TOKENS,
    answer,
    answers,
    greedy_by_transformers,
    native_engine,
    poll,
    prompt,
    request,
    save_base,
    tiny_model,
)

from sintonia.errors import (
    ContextLengthExceeded,
    DamagedCheckpoint,
    EngineUnavailable,
    InvalidValue,
    RefusedModel,
    TooManyRequests,
)
from sintonia.generation.base import FinishReason
from sintonia.generation.engines.native.residency import ResidencyLimits


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def other_base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases"), seed=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_transformers_token_for_token(family, tmp_path):
    folder = save_base(tmp_path, family)
    prompts = [prompt(n, length) for n, length in enumerate((1, 5, 12, 40, 300))]

    async def run():
        async with native_engine() as engine:
            return await answers(engine, [request(folder, p) for p in prompts])

    found = asyncio.run(run())
    model = tiny_model(family)
    expected = [greedy_by_transformers(model, p) for p in prompts]
    assert [one.token_ids for one in found] == expected
    assert len({tuple(one) for one in expected}) == len(expected), "the test must tell them apart"


def test_a_seed_means_the_same_tokens_alone_and_in_any_company(base):
    wanted = [
        request(base, prompt(n, 3 + 23 * n), max_tokens=24, temperature=1.0, top_p=p, seed=n)
        for n, p in enumerate((1.0, 0.9, 0.5) * 6)
    ]

    async def run():
        async with native_engine() as engine:
            alone = [await answer(engine, one) for one in wanted]
            return alone, await answers(engine, wanted)

    alone, together = asyncio.run(run())
    assert alone == together
    assert len({tuple(one.token_ids) for one in alone}) == len(alone)


def test_logits_have_the_same_bits_alone_and_in_company(base):
    import torch

    from sintonia.generation.engines.native.cache import SequenceCache
    from sintonia.generation.engines.native.loading import load_base
    from sintonia.generation.engines.native.runner import Work

    if not torch.backends.mkldnn.is_available():
        pytest.skip("plain products do not promise it")
    runner = load_base(base, "")

    def logits(lengths):
        caches = [SequenceCache() for _ in lengths]
        with torch.inference_mode():
            runner.forward([Work(prompt(n, n), 0, c) for n, c in zip(lengths, caches, strict=True)])
            return runner.forward([Work((7,), n, c) for n, c in zip(lengths, caches, strict=True)])

    together = logits([3, 20, 1, 64])
    for index, length in enumerate([3, 20, 1, 64]):
        assert torch.equal(logits([length])[0], together[index])


def test_an_unseeded_request_is_random(base):
    async def run():
        async with native_engine() as engine:
            one = request(base, prompt(1), temperature=1.0)
            return await answers(engine, [one] * 4)

    assert len({tuple(one.token_ids) for one in asyncio.run(run())}) > 1


def test_a_stop_token_ends_the_answer_and_is_its_last_token(base):
    full = greedy_by_transformers(tiny_model("llama"), prompt(1))
    stop = full[5]

    async def run():
        async with native_engine() as engine:
            return await answer(engine, request(base, prompt(1), stop_token_ids=(stop,)))

    found = asyncio.run(run())
    assert found.finish_reason is FinishReason.STOP
    assert found.token_ids == full[: full.index(stop) + 1]


def test_an_answer_ends_at_max_tokens_or_at_the_end_of_the_context(base):
    async def run():
        async with native_engine() as engine:
            short = await answer(engine, request(base, prompt(1), max_tokens=3))
            last = await answer(engine, request(base, prompt(2, 1020), max_tokens=50))
            return short, last

    short, last = asyncio.run(run())
    assert (len(short.token_ids), short.finish_reason) == (3, FinishReason.LENGTH)
    assert (len(last.token_ids), last.finish_reason) == (4, FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("prompt_ids", "max_tokens", "error", "says"),
    [
        (prompt(1, 1024), 5, ContextLengthExceeded, r"1024 tokens, but the prompt has 1024"),
        ((1, MODEL_TOKENS), 5, InvalidValue, "must be from 0 to 257"),
        ((), 5, InvalidValue, "at least 1"),
        ((1, 2), 0, InvalidValue, "max_tokens 0"),
    ],
)
def test_a_request_that_cannot_be_continued_is_refused(base, prompt_ids, max_tokens, error, says):
    async def run():
        async with native_engine(engine_slots=1, engine_queue=0) as engine:
            for _ in range(2):  # the slot is free again
                with pytest.raises(error, match=says):
                    await answer(engine, request(base, prompt_ids, max_tokens=max_tokens))
            await poll(lambda: _is_idle(engine))
            return await answer(engine, request(base, prompt(1), max_tokens=2))

    assert len(asyncio.run(run()).token_ids) == 2


async def _is_idle(engine):
    status = await engine.status()
    return status.running == status.waiting == 0


def test_closing_a_stream_frees_its_slot(base):
    async def run():
        async with native_engine(engine_slots=1, engine_queue=1) as engine:
            stream = engine.stream(request(base, prompt(1), max_tokens=1000))
            await anext(stream)
            queued = asyncio.create_task(answer(engine, request(base, prompt(2), max_tokens=4)))
            await asyncio.sleep(0)
            assert (await engine.status()).running == 1
            await stream.aclose()
            return await queued

    assert len(asyncio.run(run()).token_ids) == 4


def test_a_full_queue_refuses_and_recovers(base):
    async def run():
        async with native_engine(engine_slots=1, engine_queue=1) as engine:
            streams = [engine.stream(request(base, prompt(n), max_tokens=1000)) for n in range(2)]
            await anext(streams[0])
            second = asyncio.create_task(anext(streams[1]))
            await asyncio.sleep(0)
            with pytest.raises(TooManyRequests):
                await answer(engine, request(base, prompt(3)))
            await streams[0].aclose()
            await second
            await streams[1].aclose()
            await poll(lambda: _is_idle(engine))
            return await answer(engine, request(base, prompt(3), max_tokens=2))

    assert len(asyncio.run(run()).token_ids) == 2


def test_two_bases_are_served_at_once_each_with_its_own_answers(base, other_base):
    wanted = [request(folder, prompt(n)) for n in range(4) for folder in (base, other_base)]

    async def run():
        async with native_engine() as engine:
            return await answers(engine, wanted)

    found = [one.token_ids for one in asyncio.run(run())]
    models = (tiny_model("llama", 0), tiny_model("llama", 1))
    assert found == [greedy_by_transformers(m, prompt(n)) for n in range(4) for m in models]


def test_a_third_base_waits_for_room_and_the_least_recently_used_goes(tmp_path):
    bases = [save_base(tmp_path, seed=n) for n in range(3)]

    async def run():
        async with native_engine(ResidencyLimits(bases=2)) as engine:
            found = await answers(engine, [request(b, prompt(1), max_tokens=30) for b in bases])
            return found, (await engine.status()).resident_bases

    found, resident = asyncio.run(run())
    expected = [greedy_by_transformers(tiny_model("llama", n), prompt(1), 30) for n in range(3)]
    assert [one.token_ids for one in found] == expected
    assert len(resident) == 2
    assert bases[2].name in resident


def test_unloading_ends_in_peace_and_loads_again_when_asked(base):
    async def run():
        async with native_engine() as engine:
            stream = engine.stream(request(base, prompt(1), max_tokens=40))
            tokens = list((await anext(stream)).token_ids)
            await engine.unload(base.name)
            assert (await engine.status()).resident_bases == ()
            async for chunk in stream:
                tokens.extend(chunk.token_ids)
            return tokens, await answer(engine, request(base, prompt(1), max_tokens=40))

    tokens, again = asyncio.run(run())
    assert tokens == again.token_ids


def test_a_closed_engine_ends_its_requests_and_takes_no_more(base):
    async def run():
        async with native_engine() as engine:
            stream = engine.stream(request(base, prompt(1), max_tokens=1000))
            await anext(stream)
            await engine.close()
            with pytest.raises(EngineUnavailable):
                async for _ in stream:
                    pass
            with pytest.raises(EngineUnavailable):
                await answer(engine, request(base, prompt(1)))
            with pytest.raises(EngineUnavailable):
                await engine.unload("x")

    asyncio.run(run())


def test_a_folder_that_wants_code_to_run_is_refused(tmp_path):
    folder = save_base(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "code of its own" in refusal(folder)


def test_a_folder_with_pickles_only_is_refused(tmp_path):
    folder = save_base(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "cannot be loaded" in refusal(folder)


def test_a_damaged_weight_file_is_refused(tmp_path):
    folder = save_base(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be loaded" in refusal(folder)


def test_a_folder_that_misses_a_weight_is_refused_and_never_filled_with_noise(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_base(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "weights are incomplete (missing keys: model.layers.1.mlp.up_proj" in refusal(folder)


@pytest.mark.parametrize("family", ["bloom", "falcon", "gptj", "mpt"])
def test_a_family_that_ignores_the_attention_seam_is_refused(family, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
        "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 128},
        "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    }
    config = AutoConfig.for_model(family, vocab_size=258, **sizes[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
    assert family in refusal(tmp_path / family)


def refusal(folder):
    """What the engine says to a request for ``folder``, twice: a refusal is not remembered."""

    async def run():
        async with native_engine() as engine:
            for _ in range(2):
                with pytest.raises(RefusedModel) as caught:
                    await answer(engine, request(folder, prompt(1)))
            return caught.value.message

    message = asyncio.run(run())
    assert str(folder.parent) not in message
    return message


def test_a_sealed_base_with_other_content_or_another_hash_is_refused(tmp_path):
    from dataclasses import replace

    from sintonia.sealed import hash_file, seal

    folder = tmp_path / "sealed"
    sha256 = seal(save_base(tmp_path), folder)
    assert sha256 == hash_file(folder / "manifest.json")
    good = request(folder, prompt(1), max_tokens=2)
    good = replace(good, model=replace(good.model, base_sha256=sha256))
    wrong = replace(good, model=replace(good.model, base_sha256="0" * 64))

    async def run():
        async with native_engine() as engine:
            assert len((await answer(engine, good)).token_ids) == 2
            with pytest.raises(DamagedCheckpoint, match="other weights"):
                await answer(engine, wrong)
            await engine.unload(sha256)
            (folder / "config.json").write_text("{}")
            with pytest.raises(DamagedCheckpoint, match="not what its manifest promises"):
                await answer(engine, good)

    asyncio.run(run())
