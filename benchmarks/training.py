"""Training against TRL + PEFT, on the same rows in the same batches, in one alternating run.

``python benchmarks/training.py --rows FILE --limit N --batch-size B --method sft|dpo --against trl
--json OUT``

Both sides are processes of their own: float32, LoRA r 16 on all linear layers, AdamW at a constant
rate, no gradient checkpointing, the same threads, token ids prepared before the clock, one step of
warm-up. Steps alternate, so that a noisy machine hits both alike; medians are compared. Of DPO the
reference is counted on both sides: TRL computes it in each step, we before the first one.

Exits with 1 when the losses of a step differ by more than 1e-3 relative.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sides.work import Row, Work
from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.data.validate import iter_examples
from sintonia.models import adapters
from sintonia.models.load import load_base
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings

ROOT = Path(__file__).parents[1]
SIDES = {"ours": "ours.py", "trl": "trl_peft.py"}
EXAMPLES = {"sft": "tickets/train.jsonl", "dpo": "replies/train.jsonl"}
WORDS = "amber birch cedar delta ember fjord grove heron inlet jetty knoll larch mango north oasis"
LARGEST_DIFFERENCE = 1e-3
PEAK_SIZE = 2048


@dataclass(frozen=True)
class Answer:
    """What one side told of one step."""

    loss: float
    seconds: float
    tokens: int


class Side:
    """One side's process."""

    def __init__(self, script: str, work: Path) -> None:
        command = [sys.executable, str(Path(__file__).parent / "sides" / script), str(work)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._until("ready")

    def step(self) -> Answer:
        """Let it make a step."""
        began = time.perf_counter()
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = self._until("loss")
        seconds = time.perf_counter() - began + told["extra_seconds"]
        return Answer(told["loss"], seconds, told["tokens"])

    def peak_bytes(self) -> int:
        """Wait for its end; return its largest resident size."""
        peak: int = self._until("peak_bytes")["peak_bytes"]
        self._process.wait()
        return peak

    def _until(self, key: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if key in told:
                return told
        raise SystemExit(f"a side ended before it told {key}; its words are above")


def read_rows(arguments: argparse.Namespace, renderer: Renderer) -> list[Row]:
    """Return the first rows of the file; of a chat with several learned turns the first turn."""
    words, numbers = WORDS.split(), random.Random(0)
    rows = []
    for _, example in iter_examples(arguments.rows):
        if arguments.unshareable:
            system, *others = example.messages  # type: ignore[union-attr]
            content = f"{numbers.choice(words)} {numbers.randrange(10**6)} {system.content}"
            messages = (replace(system, content=content), *others)
            example = replace(example, messages=messages)  # type: ignore[type-var]  # noqa: PLW2901
        sequences = renderer.sequences(example)[: 2 if arguments.method == "dpo" else 1]
        answers = [list(sequence.answer_ids) for sequence in sequences]
        rows.append(Row(list(sequences[0].prompt_ids), answers))
        if len(rows) == arguments.limit:
            break
    return rows


def save_start(base: Path, folder: Path) -> int:
    """Write the adapter that both sides begin with; return the number of adapted weights."""
    model = load_base(base)
    lora = LoraSettings(targets=linear_layers(base))
    adapters.attach(model, lora)
    adapters.reset(model, seed=0)
    folder.mkdir()
    adapters.save(model, folder, lora, str(base))
    return sum(layer.base.weight.numel() for _, layer in adapters.layers(model))


def product_peak(threads: int) -> float:
    """Return the best of 8 float32 products of 2048 x 2048, in FLOP per second."""
    torch.set_num_threads(threads)
    square = torch.randn(PEAK_SIZE, PEAK_SIZE)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        square @ square
        seconds.append(time.perf_counter() - began)
    return 2 * PEAK_SIZE**3 / min(seconds)


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both sides, alternating, and return the figures."""
    chosen = settings.load()
    library = Library(chosen.home, catalog.load(chosen.aliases))
    base = Path(library.fetch(arguments.model, lambda _what, _part: None).ref.folder)
    rows = read_rows(arguments, Renderer.from_folder(base))
    size = arguments.batch_size
    batches = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
    weights = save_start(base, folder / "start")
    work = Work(
        method=arguments.method,
        base=str(base),
        start=str(folder / "start"),
        batches=batches,
        threads=arguments.threads or torch.get_num_threads(),
        device=arguments.device,
        shares_prefixes=not arguments.no_sharing,
        compiles=arguments.compile,
        settings=arguments.trl_attention,
    )
    work.write(folder / "work.json")
    names = ["ours", *([arguments.against] if arguments.against != "none" else [])]
    peak = product_peak(work.threads)
    sides = {name: Side(SIDES[name], folder / "work.json") for name in names}
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    for number in range(len(batches)):
        for name, side in sides.items():
            answers[name].append(side.step())
        told = "  ".join(
            f"{n} {a[-1].seconds:.2f} s loss {a[-1].loss:.5f}" for n, a in answers.items()
        )
        print(f"step {number + 1}: {told}", flush=True)
    peak = max(peak, product_peak(work.threads))
    figures = {
        name: {
            "seconds": statistics.median(a.seconds for a in answers[name][1:]),
            "rows": size,
            "tokens": statistics.median(a.tokens for a in answers[name][1:]),
            "losses": [a.loss for a in answers[name]],
            "peak_bytes": sides[name].peak_bytes(),
        }
        for name in names
    }
    rates = [4 * weights * a.tokens / a.seconds for a in answers["ours"][1:]]
    ours = figures.pop("ours")
    return {
        "ratios": {name: peer["seconds"] / ours["seconds"] for name, peer in figures.items()},
        "memory_ratios": {n: p["peak_bytes"] / ours["peak_bytes"] for n, p in figures.items()},
        "ours": ours,
        "peers": figures,
        "mfu": statistics.median(rates) / peak,
        "product_peak_flops": peak,
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="a file in OpenAI's shape")
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--method", choices=["sft", "dpo"], default="sft")
    parser.add_argument("--against", choices=["trl", "none"], default="trl")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile on our side")
    parser.add_argument("--unshareable", action="store_true", help="a random word before each row")
    parser.add_argument("--no-sharing", action="store_true", help="lay each row out whole")
    parser.add_argument("--trl-attention", choices=["sdpa", "eager"], default="sdpa")
    arguments = parser.parse_args()
    if arguments.rows is None:
        arguments.rows = ROOT / "examples" / EXAMPLES[arguments.method]
    return arguments


def main() -> int:
    """Run, print; 1 when the losses differ."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(arguments, Path(folder))
    print(f"useful arithmetic {figures['mfu']:.2f} of the product peak")
    worst = 0.0
    for name, peer in figures["peers"].items():
        pairs = zip(figures["ours"]["losses"], peer["losses"], strict=True)
        differences = [abs(a - b) / abs(b) for a, b in pairs]
        worst = max(worst, *differences) if all(map(math.isfinite, differences)) else math.inf
        print(
            f"{figures['ratios'][name]:.1f} x {name}, whose memory is "
            f"{figures['memory_ratios'][name]:.2f} of ours; losses differ by at most {worst:.1e}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return int(worst > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
