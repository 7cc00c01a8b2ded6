"""TRL's side of the training benchmark: ``python benchmarks/sides/trl_peft.py WORK.json``.

Rows come as token ids, in our batches and order. Gradient checkpointing and bf16, which TRL turns
on by default, are off: on this kind of processor they would make it slower.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from work import BETA, MAX_NORM, RATE, Row, Work, requests, say, say_memory


class Gate(TrainerCallback):  # type: ignore[misc]
    """Waits for the parent before each step and tells it the loss after."""

    def __init__(self, work: Work) -> None:
        self._requests = requests(work.batches)
        self._work = work
        self._step = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded."""
        say(ready=True)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait."""
        self._step = next(self._requests)

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **_: Any) -> None:
        """Tell."""
        if "loss" in logs:
            rows = self._work.batches[self._step]
            lengths = [len(row.prompt) + len(answer) for row in rows for answer in row.answers]
            say(loss=logs["loss"], tokens=len(lengths) * max(lengths), extra_seconds=0.0)


def sft_row(row: Row) -> dict[str, list[int]]:
    """Return a row for SFTTrainer."""
    (answer,) = row.answers
    labels = [-100] * len(row.prompt) + answer
    return {"input_ids": row.prompt + answer, "labels": labels}


def dpo_row(row: Row) -> dict[str, list[int]]:
    """Return a row for DPOTrainer."""
    chosen, rejected = row.answers
    return {"prompt_ids": row.prompt, "chosen_ids": chosen, "rejected_ids": rejected}


class GivenRows:
    """Rows that are tokens already, in their order."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


class Sft(GivenRows, SFTTrainer):  # type: ignore[misc]
    """Supervised."""


class Dpo(GivenRows, DPOTrainer):  # type: ignore[misc]
    """Preferences."""


KINDS = {
    "sft": (Sft, SFTConfig, sft_row, {"dataset_kwargs": {"skip_prepare_dataset": True}}),
    "dpo": (Dpo, DPOConfig, dpo_row, {"beta": BETA}),
}


def main() -> None:
    """Make the steps that the parent asks for."""
    work = Work.read(sys.argv[1])
    torch.set_num_threads(work.threads)
    trainer_class, config_class, as_row, options = KINDS[work.method]
    is_cpu = work.device == "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        work.base,
        dtype=torch.float32 if is_cpu else torch.bfloat16,
        attn_implementation=work.settings,
    )
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            per_device_train_batch_size=len(work.batches[0]),
            max_steps=len(work.batches),
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=MAX_NORM,
            weight_decay=0.0,
            bf16=not is_cpu,
            gradient_checkpointing=False,
            max_length=None,
            use_cpu=is_cpu,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer = trainer_class(
            model=PeftModel.from_pretrained(model, work.start, is_trainable=True),
            args=config,
            train_dataset=Dataset.from_list([as_row(row) for b in work.batches for row in b]),
            processing_class=AutoTokenizer.from_pretrained(work.base),
            callbacks=[Gate(work)],
        )
        trainer.train()
    say_memory()


if __name__ == "__main__":
    sys.stdout = sys.stderr  # the trainer prints its logs
    main()
