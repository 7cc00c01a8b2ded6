"""TRL's side of the training benchmark: ``python benchmarks/sides/trl_peft.py WORK.json``.

Rows come as token ids, in our batches and order. Gradient checkpointing and bf16, which TRL turns
on by default, are off: on this kind of processor they would make it slower.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, pack_dataset
from variants import VARIANTS, Variant
from work import BETA, MAX_NORM, RATE, Row, Work, requests, say_step, say_waiting


class Gate(TrainerCallback):  # type: ignore[misc]
    """Waits for the parent before each step and tells it the loss after."""

    def __init__(self, work: Work, variant: Variant) -> None:
        self._requests = requests(work.batches)
        self._tokens = [computed_tokens(batch, variant) for batch in work.batches]
        self._step = 0
        self._device = work.device
        self.reference_seconds = 0.0
        """Of each step's rows, where TRL computes their reference before the first step."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait."""
        step = next(self._requests, None)
        if step is None:
            raise SystemExit
        self._step = step

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **_: Any) -> None:
        """Tell."""
        if "loss" in logs:
            tokens = self._tokens[self._step]
            say_step(logs["loss"], tokens, self.reference_seconds, self._device)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Nothing is left to compute."""
        say_waiting()


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

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


class Sft(GivenRows, SFTTrainer):  # type: ignore[misc]
    """Supervised."""


class Dpo(GivenRows, DPOTrainer):  # type: ignore[misc]
    """Preferences."""

    def _precompute_ref_logps(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        dataset = super()._precompute_ref_logps(*arguments)
        self.reference_seconds = time.perf_counter() - began
        return dataset


KINDS = {
    "sft": (Sft, SFTConfig, sft_row, {"dataset_kwargs": {"skip_prepare_dataset": True}}),
    "dpo": (Dpo, DPOConfig, dpo_row, {"beta": BETA}),
}


def device_batches(batch: Sequence[Row], variant: Variant) -> list[list[Row]]:
    """Return the rows of a step as they are computed at once."""
    if variant.device_rows is None:
        return [list(batch)]
    rows, size = sorted(batch, key=lambda row: row.longest), variant.device_rows
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def computed_tokens(batch: Sequence[Row], variant: Variant) -> int:
    """Return the tokens of a step, with those that only fill up."""
    is_flat = variant.packs or variant.options.get("padding_free", False)
    tokens = 0
    for rows in device_batches(batch, variant):
        lengths = [len(row.prompt) + len(answer) for row in rows for answer in row.answers]
        tokens += sum(lengths) if is_flat else len(lengths) * max(lengths)
    return tokens


def dataset_of(work: Work, variant: Variant, as_row: Any) -> Dataset:
    """Return all rows in the order in which they are computed."""
    made: list[Mapping[str, Any]] = []
    for batch in work.batches:
        for rows in device_batches(batch, variant):
            several = Dataset.from_list([as_row(row) for row in rows])
            if variant.packs:
                several = pack_dataset(several, sum(row.longest for row in rows), "bfd")
                assert len(several) == 1, "rows that are computed at once are one packed row"
            made += several.to_list()
    return Dataset.from_list(made)


def configured(work: Work, variant: Variant, kind: Any, options: Any, folder: str) -> Any:
    """Return the trainer's configuration."""
    is_cpu, size = work.device == "cpu", len(work.batches[0])
    at_once = variant.device_rows or size
    # SFTTrainer refuses a length that it would not enforce.
    max_length = None if "padding_free" in variant.options else work.max_length
    return kind(
        output_dir=folder,
        per_device_train_batch_size=1 if variant.packs else at_once,
        gradient_accumulation_steps=size // at_once,
        max_steps=len(work.batches),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_NORM,
        weight_decay=0.0,
        bf16=not is_cpu,
        gradient_checkpointing=False,
        max_length=max_length,
        use_cpu=is_cpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
        **variant.options,
    )


def main() -> None:
    """Make the steps that the parent asks for."""
    work = Work.read(sys.argv[1])
    torch.set_num_threads(work.threads)
    variant = VARIANTS[work.variant]
    trainer_class, config_class, as_row, options = KINDS[work.method]
    model = AutoModelForCausalLM.from_pretrained(
        work.base,
        dtype=torch.float32 if work.device == "cpu" else torch.bfloat16,
        attn_implementation=variant.attention,
    )
    tokenizer, gate = AutoTokenizer.from_pretrained(work.base), Gate(work, variant)
    if tokenizer.pad_token is None:  # which one does not matter: it is masked
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(
            model=PeftModel.from_pretrained(model, work.start, is_trainable=True),
            args=configured(work, variant, config_class, options, folder),
            train_dataset=dataset_of(work, variant, as_row),
            processing_class=tokenizer,
            callbacks=[gate],
        )
        gate.reference_seconds = trainer.reference_seconds / len(work.batches)
        trainer.train()


if __name__ == "__main__":
    sys.stdout = sys.stderr  # the trainer prints its logs
    main()
