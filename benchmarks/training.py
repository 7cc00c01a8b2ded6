"""Training speed against TRL, on the same rows in the same batches, in one alternating run.

``python benchmarks/training.py --rows FILE --limit N --batch-size B --against trl --json OUT``

Both sides: float32, LoRA r 16 on all linear layers, AdamW at a constant rate, no gradient
checkpointing (TRL turns it and bf16 on by default), the same threads, token ids prepared before
the clock, one step of warm-up. Steps alternate between the two, so that a noisy machine hits both
alike; medians are compared. The losses of each step must agree within 1e-3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.data.forest import EncodedSequence
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, encode
from sintonia.data.validate import iter_examples
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import MICRO_BATCH_TOKENS, linear_layers
from sintonia.runs.spec import LoraSettings, OptimizerSettings
from sintonia.training.optimizer import build_optimizer, clip

RATE = 1e-4
MAX_NORM = 1.0
DEFAULT_ROWS = Path(__file__).parents[1] / "examples" / "tickets" / "train.jsonl"
Batch = list[EncodedSequence]


def load_rows(path: Path, renderer: Renderer, limit: int) -> list[EncodedSequence]:
    """Return the first ``limit`` learned turns of a file."""
    rules = EncodingRules(renderer.context_tokens, truncate=False)
    sequences: list[EncodedSequence] = []
    for number, example in iter_examples(path):
        sequences += encode(number, example, renderer, rules)
        if len(sequences) >= limit:
            break
    return sequences[:limit]


def ours(base: Path, lora: LoraSettings, start: Path) -> Callable[[Batch], float]:
    """Return a function that makes one step and returns its loss; saves its first adapter."""
    model = load_base(base)
    adapters.attach(model, lora)
    adapters.reset(model, seed=0)
    adapters.save(model, start, lora, str(base))
    policy = Policy(model)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained = [p for _, p in named]
    optimizer = build_optimizer(named, OptimizerSettings.usual(RATE))

    sft = Supervised()

    def step(batch: Batch) -> float:
        forests = list(sft.batches(batch, MICRO_BATCH_TOKENS))
        count = sum(sft.count(forest) for forest in forests)
        total = 0.0
        for forest in forests:
            output = sft.loss(policy, forest)
            (output.total / count).backward()
            total += float(output.total.detach())
        clip(trained, MAX_NORM)
        optimizer.step(RATE)
        return total / count

    return step


def trl(base: Path, start: Path, work: Path, batches: list[Batch]) -> Iterator[float]:
    """Yield the loss of each of TRL's steps, made when it is asked for.

    TRL trains in a thread of its own that waits at the end of each step for the next request.
    """
    import threading

    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    go, done = threading.Semaphore(0), threading.Semaphore(0)
    losses: list[float] = []

    class Gate(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])
                done.release()

    rows = [
        {
            "input_ids": sequence.tokens.tolist(),
            "labels": [-100] * sequence.num_prompt_tokens
            + sequence.tokens[sequence.num_prompt_tokens :].tolist(),
        }
        for batch in batches
        for sequence in batch
    ]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=len(batches[0]),
        max_steps=len(batches),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_NORM,
        weight_decay=0.0,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=PeftModel.from_pretrained(model, start, is_trainable=True),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[Gate()],
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)  # noqa: SLF001
    threading.Thread(target=trainer.train, daemon=True).start()
    for _ in batches:
        go.release()
        done.acquire()
        yield losses[-1]


def compare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run both sides, alternating, and return the figures."""
    chosen = settings.load()
    library = Library(chosen.home, catalog.load(chosen.aliases))
    base = library.fetch("smollm2-135m-instruct", lambda _what, _part: None)
    folder = Path(base.ref.folder)
    sequences = load_rows(arguments.rows, Renderer.from_folder(folder), arguments.limit)
    size = arguments.batch_size
    batches = [sequences[i : i + size] for i in range(0, len(sequences) - size + 1, size)]
    lora = LoraSettings(targets=linear_layers(folder))
    start = work / "start"
    start.mkdir()
    step = ours(folder, lora, start)
    peer = trl(folder, start, work / "trl", batches)
    times: dict[str, list[float]] = {"ours": [], "trl": []}
    losses: dict[str, list[float]] = {"ours": [], "trl": []}
    for number, batch in enumerate(batches):
        for side, run in (("ours", lambda b=batch: step(b)), ("trl", lambda: next(peer))):
            began = time.perf_counter()
            losses[side].append(run())
            times[side].append(time.perf_counter() - began)
        print(f"step {number + 1}: " + "  ".join(f"{s} {times[s][-1]:.2f} s" for s in times))
    medians = {side: statistics.median(values[1:]) for side, values in times.items()}
    return {
        "ratios": {"trl": medians["trl"] / medians["ours"]},
        "ours": {"seconds": medians["ours"], "rows": size, "losses": losses["ours"]},
        "peers": {"trl": {"seconds": medians["trl"], "losses": losses["trl"]}},
    }


def main() -> int:
    """Parse, run, print; 1 when the losses differ."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=DEFAULT_ROWS)
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--against", choices=["trl"], default="trl")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = compare(arguments, Path(work))
    pairs = zip(figures["ours"]["losses"], figures["peers"]["trl"]["losses"], strict=True)
    worst = max(abs(a - b) / b for a, b in pairs)
    print(f"{figures['ratios']['trl']:.1f} x TRL; losses differ by at most {worst:.1e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return int(worst > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
