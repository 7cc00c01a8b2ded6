"""TRL as the oracle: the same rows in the same order teach the same."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sintonia import catalog, workflow
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer, TokenSequence
from sintonia.data.validate import iter_examples
from sintonia.domain.methods import Hyperparameters
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import ExitStatus, RecordKind, Tail
from sintonia.runs.spec import AdapterRef, Origin, TrainSpec
from sintonia.sealed import hash_file, seal
from sintonia.training.row_order import RowOrder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

STEPS, BATCH, ROWS = 20, 4, 40
TRL_NAMES = {
    "train_loss": "loss",
    "train_reward_chosen": "rewards/chosen",
    "train_reward_rejected": "rewards/rejected",
    "train_reward_margin": "rewards/margins",
    "train_reward_accuracy": "rewards/accuracies",
}


def pair(number: int) -> str:
    system = {"role": "system", "content": "Be kind." if number % 2 else "Be kind and brief."}
    question = {"role": "user", "content": f"Where is {'my ' * (number % 3)}order {number}?"}
    good = f"It is {'nearly ' * (number % 4)}there: {number * 7 % 10}."
    row = {
        "input": {"messages": [system, question]},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": "No." * (1 + number % 5)}],
    }
    return json.dumps(row)


def chat(number: int) -> str:
    system = {"role": "system", "content": "Be kind." if number % 2 else "Be kind and brief."}
    question = {"role": "user", "content": f"Where is {'my ' * (number % 3)}order {number}?"}
    answer = {"role": "assistant", "content": f"It is {'nearly ' * (number % 4)}there."}
    return json.dumps({"messages": [system, question, answer]})


def as_sft(sequences: Sequence[TokenSequence]) -> dict:
    (one,) = sequences
    prompt, answer = list(one.prompt_ids), list(one.answer_ids)
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def as_dpo(sequences: Sequence[TokenSequence]) -> dict:
    preferred, other = sequences
    return {
        "prompt_ids": list(preferred.prompt_ids),
        "chosen_ids": list(preferred.answer_ids),
        "rejected_ids": list(other.answer_ids),
    }


ROW_OF = {"sft": chat, "dpo": pair}
TRL_ROW_OF = {"sft": as_sft, "dpo": as_dpo}


@dataclass(frozen=True)
class Subject:
    """A model of a home, and how it is tuned so that it learns without running away."""

    name: str
    home: str
    learning_rate: float
    start_spread: float
    """Of the starting adapter's B, which would otherwise be zero."""


TINY = Subject("tiny", "tiny_home", 2e-3, 0.05)
EMBEDDED = Subject("smollm2-135m-instruct", "embedded_home", 3e-4, 0.005)
SUBJECTS = [TINY, pytest.param(EMBEDDED, marks=[pytest.mark.slow, pytest.mark.embedded])]


@pytest.fixture(scope="module", params=["sft", "dpo"])
def method(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request) -> Subject:
    return request.param


@pytest.fixture(scope="module")
def home(subject, request) -> Path:
    return request.getfixturevalue(subject.home)


@pytest.fixture(scope="module")
def base(subject, home) -> Path:
    found = Library(home, catalog.load()).find(subject.name)
    assert found is not None
    return Path(found.ref.folder)


@pytest.fixture(scope="module")
def rows(method, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / f"{method}.jsonl"
    path.write_text("\n".join(ROW_OF[method](number) for number in range(ROWS)))
    return path


@pytest.fixture(scope="module")
def spec(method, subject, home, rows, base, tmp_path_factory) -> TrainSpec:
    """A plan of 20 steps that begins with an adapter which does something already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(home))
        chosen = Hyperparameters(n_epochs=2, batch_size=BATCH)
        report = workflow.validate(rows, base=subject.name)
        plan = workflow.plan(report, base=subject.name, hyperparameters=chosen)
    assert (plan.objective, plan.total_steps) == (method, STEPS)
    model = load_base(base)
    adapters.attach(model, plan.lora)
    adapters.reset(model, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, layer in adapters.layers(model):
            noise = torch.randn(layer.lora_b.shape, generator=generator)
            layer.lora_b.copy_(noise * subject.start_spread)
    folder = tmp_path_factory.mktemp("start")
    work, start = folder / "work", folder / "start"
    work.mkdir()
    adapters.save(model, work, plan.lora, str(base))
    seal(work, start)
    parent = AdapterRef("ft:tiny:me::start", str(start), hash_file(start / "manifest.json"))
    optimizer = dataclasses.replace(plan.optimizer, learning_rate=subject.learning_rate)
    exact = {**plan.origins, "precision": Origin.GIVEN}
    return dataclasses.replace(plan, parent=parent, optimizer=optimizer, threads=1, origins=exact)


@pytest.fixture(scope="module")
def ours(spec, tmp_path_factory) -> list[dict]:
    """What each of our steps measured."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert workflow.train(spec, folder).status is ExitStatus.SUCCEEDED
    records, _ = Tail(RunFolder(folder).attempt(1).records).read()
    return [record.data for record in records if record.kind is RecordKind.STEP]


@pytest.fixture(scope="module")
def theirs(method, spec, base, rows, ours, tmp_path_factory) -> list[dict]:
    """What TRL logs at each step, given our ids, order, learning rates and starting adapter."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    trainer_class, config_class, options = {
        "sft": (SFTTrainer, SFTConfig, {"dataset_kwargs": {"skip_prepare_dataset": True}}),
        "dpo": (DPOTrainer, DPOConfig, {"beta": spec.dpo.beta}),
    }[method]

    class Trainer(trainer_class):
        """TRL's trainer on rows that are tokens already, in their order."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    config = config_class(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        **options,
        max_length=None,
        pad_token="<|im_end|>",
        max_grad_norm=spec.optimizer.max_gradient_norm,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, spec.parent.folder, is_trainable=True)
    rates = [step["learning_rate"] for step in ours]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [*rates, 0.0][step])
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(in_training_order(spec, base, rows)),
        processing_class=AutoTokenizer.from_pretrained(base),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    return [log for log in trainer.state.log_history if "loss" in log]


def in_training_order(spec: TrainSpec, base: Path, rows: Path) -> list[dict]:
    """Our ids of each row, as often and in the order that our run learned them."""
    renderer = Renderer.from_folder(base)
    made = [renderer.sequences(example) for _, example in iter_examples(rows)]
    order = RowOrder(ROWS, BATCH, spec.seed)
    return [
        TRL_ROW_OF[spec.objective](made[row])
        for step in range(1, STEPS + 1)
        for row in order.rows_of(step)
    ]


def test_twenty_steps_are_those_of_trl(ours, theirs):
    assert len(ours) == len(theirs) == STEPS
    losses, expected = [step["train_loss"] for step in ours], [log["loss"] for log in theirs]
    worst = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
    sys.stdout.write(f"losses differ by at most {worst:.1e} relative\n")  # `make oracle` shows it
    assert worst < 1e-4
    assert losses[-1] < 0.9 * losses[0], "something was learned"


@pytest.mark.parametrize("method", ["dpo"], indirect=True, scope="module")
def test_the_rewards_are_those_of_trl(ours, theirs):
    for name, trl_name in TRL_NAMES.items():
        # From the second step on: before it, which reward is larger is a matter of rounding.
        measured = [step[name] for step in ours[1:]]
        expected = [log[trl_name] for log in theirs[1:]]
        assert measured == pytest.approx(expected, rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("method", ["dpo"], indirect=True, scope="module")
def test_a_tuned_start_is_its_own_reference(ours):
    assert ours[0]["train_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert ours[0]["train_reward_margin"] == pytest.approx(0, abs=1e-5)
