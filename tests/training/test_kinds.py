"""Every kind of tuning: what is trained, saved and resumed to the bit, and what it says."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_kit import StopAfter, attempt_in_process, row
from safetensors.torch import load_file

from sintonia import workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.errors import SintoniaError
from sintonia.models import adapters, attention
from sintonia.models.compiled import check_compiler
from sintonia.models.load import Place, load_base
from sintonia.runs.records import ExitStatus, RecordKind, Tail
from sintonia.runs.spec import (
    AdapterRef,
    LoraInit,
    LoraSettings,
    Origin,
    Precision,
    Quantization,
    TrainSpec,
)
from sintonia.sealed import hash_file, read_json, seal, write_json
from sintonia.training import precision
from tiny_models import save_tiny


@pytest.fixture(scope="module")
def spec(tiny_home, tmp_path_factory) -> TrainSpec:
    """A plan of 2 epochs of 3 steps over unequal rows in float32."""
    path = tmp_path_factory.mktemp("files") / "train.jsonl"
    path.write_text("\n".join(row(n) for n in range(12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        report = workflow.validate(path, base="tiny")
        chosen = Hyperparameters(n_epochs=2, batch_size=4)
        plan = workflow.plan(report, base="tiny", hyperparameters=chosen)
    origins = {**plan.origins, "precision": Origin.GIVEN}
    return dataclasses.replace(plan, threads=1, origins=origins, micro_batch_tokens=128)


def train(spec: TrainSpec, folder: Path) -> Path:
    """Train to the end; return the final checkpoint."""
    record = attempt_in_process(spec, folder)
    assert record.status is ExitStatus.SUCCEEDED, record.message
    return folder / record.model_folder


def told(folder: Path, kind: RecordKind) -> list[dict]:
    found = []
    for records in sorted(folder.glob("attempt-*/records.jsonl")):
        found += [record.data for record in Tail(records).read()[0] if record.kind is kind]
    return found


def losses(folder: Path) -> list[float]:
    return [step["train_loss"] for step in told(folder, RecordKind.STEP)]


def words(folder: Path) -> str:
    return "\n".join(event["message"] for event in told(folder, RecordKind.EVENT))


def lora_of(spec: TrainSpec, **changes) -> TrainSpec:
    return dataclasses.replace(spec, lora=dataclasses.replace(spec.lora, **changes))


def whole_of(spec: TrainSpec) -> TrainSpec:
    optimizer = dataclasses.replace(spec.optimizer, learning_rate=1e-3)
    return dataclasses.replace(spec, lora=None, optimizer=optimizer)


def in_four_bits(spec: TrainSpec, **changes) -> TrainSpec:
    pytest.importorskip("bitsandbytes", reason="needs sintonia[quantized]")
    return dataclasses.replace(spec, quantization=Quantization.NF4, **changes)


def compiled(spec: TrainSpec) -> TrainSpec:
    try:
        check_compiler("cpu")
    except SintoniaError as problem:
        pytest.skip(str(problem))
    return dataclasses.replace(lora_of(spec, dropout=0.3), compile=True)


KINDS: dict[str, Callable[[TrainSpec], TrainSpec]] = {
    "whole": whole_of,
    "whole, rounded products": lambda spec: dataclasses.replace(
        whole_of(spec), precision=Precision.BFLOAT16
    ),
    "dropout": lambda spec: lora_of(spec, dropout=0.3),
    "dropout, recomputed": lambda spec: dataclasses.replace(
        lora_of(spec, dropout=0.3), gradient_checkpointing=True
    ),
    "pissa": lambda spec: lora_of(spec, init=LoraInit.PISSA, use_rslora=True),
    "olora": lambda spec: lora_of(spec, init=LoraInit.OLORA),
    "four bits": in_four_bits,
    "four bits, rounded activations": lambda spec: in_four_bits(spec, precision=Precision.BFLOAT16),
    "compiled, dropout": compiled,
    "rounded base": lambda spec: dataclasses.replace(spec, precision=Precision.BFLOAT16),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] if k.startswith("compiled") else []) for k in KINDS],
)
def test_a_run_that_was_stopped_goes_on_to_the_bit(kind, spec, tmp_path):
    changed = KINDS[kind](spec)
    straight = train(changed, tmp_path / "straight")
    assert attempt_in_process(changed, tmp_path / "run", StopAfter(2)).status is ExitStatus.STOPPED
    resumed = train(changed, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    weights = "model.safetensors" if changed.lora is None else "adapter_model.safetensors"
    for name in (weights, "state.safetensors"):
        assert hash_file(resumed / name) == hash_file(straight / name)


def test_a_whole_model_is_a_folder_that_transformers_loads(spec, tmp_path, tiny_folder):
    from transformers import AutoModelForCausalLM

    final = train(whole_of(spec), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(final)
    before = AutoModelForCausalLM.from_pretrained(tiny_folder).state_dict()
    unmoved = [n for n, tensor in model.state_dict().items() if torch.equal(tensor, before[n])]
    assert not unmoved, "embeddings, norms and heads learn too"
    for name in ("tokenizer.json", "chat_template.jinja", "sintonia.json", "config.json"):
        assert (final / name).is_file()
    card = read_json(final / "model_card.json")
    assert card["kind"] == "whole model"
    assert card["settings"]["lora"] is None
    assert "every weight" in (final / "README.md").read_text()


def test_a_tied_head_stays_tied(spec, tmp_path, tiny_tokenizer_json):
    from transformers import AutoModelForCausalLM

    base = library_base(tmp_path, tiny_tokenizer_json, "gemma2")
    folder = Path(base.folder)
    final = train(dataclasses.replace(whole_of(spec), base=base), tmp_path / "run")
    stored = load_file(final / "model.safetensors")
    assert "lm_head.weight" not in stored
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(
        stored["model.embed_tokens.weight"],
        load_file(folder / "model.safetensors")["model.embed_tokens.weight"],
    )


def library_base(tmp_path, tokenizer_json, family):
    from sintonia import catalog
    from sintonia.bases.library import Library

    save_tiny(family, tmp_path / "model", tokenizer_json)
    return Library(tmp_path / "home", catalog.load()).add("other", tmp_path / "model").ref


def test_full_tuning_goes_on_from_an_adapter_and_an_adapter_from_a_whole_model(spec, tmp_path):
    adapter = train(spec, tmp_path / "first")
    parent = AdapterRef("ft:tiny:me::a", str(adapter), hash_file(adapter / "manifest.json"))
    whole = train(dataclasses.replace(whole_of(spec), parent=parent), tmp_path / "second")
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[0]
    sha256 = hash_file(whole / "manifest.json")
    base = dataclasses.replace(spec.base, folder=str(whole), sha256=sha256)
    itself = AdapterRef("ft:tiny:me::b", str(whole), sha256)
    train(dataclasses.replace(spec, base=base, parent=itself), tmp_path / "third")
    assert losses(tmp_path / "third")[0] < losses(tmp_path / "second")[0]


def test_dropout_shares_nothing_and_says_so(spec, tmp_path):
    train(spec, tmp_path / "plain")
    train(lora_of(spec, dropout=0.3), tmp_path / "dropped")
    train(dataclasses.replace(lora_of(spec, dropout=0.3), seed=8), tmp_path / "other")
    assert "not shared" not in words(tmp_path / "plain")
    assert "dropout 0.3 makes rows differ" in words(tmp_path / "dropped")
    assert losses(tmp_path / "plain")[0] == pytest.approx(losses(tmp_path / "dropped")[0], abs=1e-5)
    assert losses(tmp_path / "plain")[-1] != losses(tmp_path / "dropped")[-1]
    config = read_json(next((tmp_path / "dropped").glob("checkpoints/*/adapter_config.json")))
    assert config["lora_dropout"] == 0.3


def test_a_family_that_follows_no_forest_trains_and_says_so(spec, tmp_path, tiny_tokenizer_json):
    base = library_base(tmp_path, tiny_tokenizer_json, "gptj")
    lora = LoraSettings(rank=4, targets=("q_proj", "fc_in"))
    train(dataclasses.replace(spec, base=base, lora=lora), tmp_path / "run")
    assert "each row is computed by itself" in words(tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_precision_is_chosen_once_and_kept(spec, tmp_path):
    free = dataclasses.replace(spec, origins={**spec.origins, "precision": Origin.DEFAULT})
    train(free, tmp_path / "run")
    expected = precision.usual_precision(precision.device())
    assert read_json(tmp_path / "run" / "measured.json")["precision"] == expected
    (tmp_path / "fixed").mkdir()
    write_json(tmp_path / "fixed" / "measured.json", {"threads": 1, "precision": "bfloat16"})
    final = train(free, tmp_path / "fixed")
    assert read_json(final / "model_card.json")["settings"]["precision"] == "bfloat16"
    given = train(spec, tmp_path / "given")
    assert read_json(given / "model_card.json")["settings"]["precision"] == "float32"


def test_a_rounded_base_learns_what_a_wide_one_does(spec, tmp_path):
    train(spec, tmp_path / "wide")
    final = train(dataclasses.replace(spec, precision=Precision.BFLOAT16), tmp_path / "rounded")
    assert losses(tmp_path / "rounded") == pytest.approx(losses(tmp_path / "wide"), rel=0.02)
    stored = load_file(final / "adapter_model.safetensors").values()
    assert all(tensor.dtype == torch.float32 for tensor in stored)
    assert next(load_base(Path(spec.base.folder), Place(torch.bfloat16)).parameters()).dtype == (
        torch.bfloat16
    )


def test_a_base_in_four_bits_teaches_a_plain_adapter_and_says_so(spec, tmp_path):
    train(spec, tmp_path / "wide")
    final = train(in_four_bits(spec), tmp_path / "narrow")
    assert losses(tmp_path / "narrow") == pytest.approx(losses(tmp_path / "wide"), rel=0.02)
    assert losses(tmp_path / "narrow") != losses(tmp_path / "wide")
    assert "served over the base as it is stored" in words(tmp_path / "narrow")
    assert "12 of the base's 14 linear layers" in words(tmp_path / "narrow")
    stored = load_file(final / "adapter_model.safetensors")
    assert (
        stored.keys()
        == load_file(
            next((tmp_path / "wide").glob("checkpoints/*/adapter_model.safetensors"))
        ).keys()
    )
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())
    assert read_json(final / "model_card.json")["settings"]["quantization"] == "nf4"


def test_four_bits_without_their_package_are_refused_before_training(spec, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    record = attempt_in_process(
        dataclasses.replace(spec, quantization=Quantization.NF4), tmp_path / "run"
    )
    assert record.status is ExitStatus.FAILED
    assert "pip install 'sintonia[quantized]'" in record.message
    assert not told(tmp_path / "run", RecordKind.STEP)


def test_compiling_without_a_compiler_is_refused_before_training(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    record = attempt_in_process(dataclasses.replace(spec, compile=True), tmp_path / "run")
    assert record.status is ExitStatus.FAILED
    assert "Setting compile: torch cannot compile here" in record.message
    assert "Install a C++ compiler" in record.message
    assert not told(tmp_path / "run", RecordKind.STEP)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: lora_of(s, targets=("q_proj", "w_magic", "w_other")), "w_magic, w_other"),
        (lambda s: lora_of(s, rank=0), "LoRA rank 0"),
    ],
)
def test_an_adapter_that_cannot_be_made_is_refused_by_name(change, said, spec, tmp_path):
    given = {**spec.origins, "lora.targets": Origin.GIVEN}
    record = attempt_in_process(dataclasses.replace(change(spec), origins=given), tmp_path / "run")
    assert record.status is ExitStatus.FAILED
    assert said in record.message
    assert not told(tmp_path / "run", RecordKind.STEP)


def test_an_adapter_for_another_base_is_refused_by_name(spec, tmp_path, tiny_tokenizer_json):
    adapter = train(spec, tmp_path / "first")
    parent = AdapterRef("ft:tiny:me::a", str(adapter), hash_file(adapter / "manifest.json"))
    base = library_base(tmp_path, tiny_tokenizer_json, "llama")
    other = dataclasses.replace(spec, base=dataclasses.replace(base), parent=parent)
    if base.sha256 == spec.base.sha256:
        pytest.fail("the two bases must differ")
    record = attempt_in_process(other, tmp_path / "run")
    assert "ft:tiny:me::a" in record.message
    assert "adapter for another base (tiny)" in record.message


def test_another_jobs_checkpoint_is_refused_and_left_alone(spec, tmp_path):
    final = train(spec, tmp_path / "first")
    (tmp_path / "second" / "checkpoints").mkdir(parents=True)
    foreign = tmp_path / "second" / "checkpoints" / final.name
    work = tmp_path / "work"
    work.mkdir()
    for path in final.iterdir():
        (work / path.name).write_bytes(path.read_bytes())
    seal(work, foreign)
    record = attempt_in_process(dataclasses.replace(spec, run_id="run-other"), tmp_path / "second")
    assert record.status is ExitStatus.FAILED
    assert spec.run_id in record.message
    assert foreign.is_dir()


def test_merging_a_file_into_weights_refuses_another_base(tmp_path, tiny_folder):
    lora = LoraSettings(rank=2, alpha=4, targets=("q_proj",))
    model = load_base(tiny_folder)
    adapters.attach(model, lora)
    adapters.save(model, tmp_path, lora, "tiny")
    save_tiny("gpt2", tmp_path / "other", "{}")
    other = load_base(tmp_path / "other")
    assert attention.is_used_by(other)
    with pytest.raises(SintoniaError, match="there is no layer"):
        adapters.add_to_weights(other, tmp_path)


def test_a_run_that_began_without_sharing_goes_on_without(spec, tmp_path):
    train(spec, tmp_path / "shared")
    (tmp_path / "apart").mkdir()
    write_json(tmp_path / "apart" / "measured.json", {"shares_prefixes": False})
    train(spec, tmp_path / "apart")
    assert read_json(tmp_path / "shared" / "measured.json")["shares_prefixes"] is True
    shared, apart = (
        int(re.search(r"steps of about (\d+) tokens", words(tmp_path / name))[1])
        for name in ("shared", "apart")
    )
    assert apart > shared
