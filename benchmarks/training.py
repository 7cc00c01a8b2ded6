"""Training against TRL + PEFT, on the same rows in the same batches, in one alternating run.

``python benchmarks/training.py --rows FILE --limit N --batch-size B --method sft|dpo --against trl
--json OUT``

Both sides are processes of their own: float32, LoRA r 16 on all linear layers, AdamW at a constant
rate, no gradient checkpointing, the same threads, token ids prepared before the clock, one step of
warm-up. TRL's settings (``sides/variants.py``) are tried for a few steps each, and the best of
them counts. Then steps alternate, so that a noisy machine hits both alike, and the ratio is the
median over the pairs of neighbouring steps. Of DPO the reference is counted on both sides, and
our side runs a second time without sharing the prompt of a pair.

With ``--device cuda`` both sides compute in bfloat16, memory is what torch held on the GPU, and the
peak is that of its bfloat16 products. ``--shape 1b|3b`` takes random weights of that many.

Exits with 1 when the losses of a step differ by more than 1e-3 relative, on a GPU 2e-2, where both
round; with ``--load-4bit`` the bases differ and losses are told only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sides import figures
from sides.process import Answer, SideEnded, started, take_turns
from sides.rows import Found, Wanted, read_rows
from sides.shapes import SHAPES, make
from sides.trials import Trial, try_all, work_of
from sides.variants import VARIANTS
from sides.work import Work
from sintonia import catalog, settings
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer
from sintonia.models import adapters
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings

ROOT = Path(__file__).parents[1]
EXAMPLES = {"sft": "tickets/train.jsonl", "dpo": "replies/train.jsonl"}
TIMED_STEPS = 8
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def save_start(base: Path, folder: Path, dtype: torch.dtype) -> int:
    """Write the adapter that both sides begin with; return the number of adapted weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    lora = LoraSettings(targets=linear_layers(base))
    adapters.attach(model, lora)
    adapters.reset(model, seed=0)
    folder.mkdir()
    adapters.save(model, folder, lora, str(base))
    return sum(layer.base.weight.numel() for _, layer in adapters.layers(model))


def base_of(arguments: argparse.Namespace, folder: Path, dtype: torch.dtype) -> Path:
    """Return the folder of the base: a model of the library, or random weights of a shape."""
    chosen = settings.load()
    library = Library(chosen.home, catalog.load(chosen.aliases))
    model = library.find(arguments.model) or library.fetch(arguments.model, lambda *_: None)
    base = Path(model.ref.folder)
    if arguments.shape is None:
        return base
    return make(SHAPES[arguments.shape], base, folder / "random", dtype)


def batches_of(arguments: argparse.Namespace, found: Found) -> list[list[Any]]:
    """Return whole batches of the rows; exit in words when there are too few."""
    size, rows = arguments.batch_size, found.rows
    whole = len(rows) // size
    needed = min(arguments.limit // size, 1 + TIMED_STEPS)
    if whole < max(needed, 2):
        raise SystemExit(
            f"{arguments.rows} has {len(rows)} rows to learn, {whole} batches of {size}; "
            f"a warm-up step and {max(needed, 2) - 1} timed ones need {max(needed, 2) * size}. "
            "Give a larger file, or a smaller --batch-size or --limit."
        )
    if whole < 1 + TIMED_STEPS:
        print(f"only {whole - 1} timed steps: figures need at least {TIMED_STEPS}", flush=True)
    return [rows[i : i + size] for i in range(0, whole * size, size)]


def run(works: dict[str, Work], folder: Path) -> figures.Answers:
    """Let all sides make all steps, alternating. Raises ``SideEnded``."""
    answers: dict[str, list[Answer]] = {name: [] for name in works}
    with started(works, folder) as sides:
        steps = range(1, 1 + len(works["ours"].batches))
        for number, step in zip(steps, take_turns(sides), strict=False):
            for name, answer in step.items():
                answers[name].append(answer)
            told = "  ".join(f"{n} {step[n].seconds:.2f} s loss {step[n].loss:.5f}" for n in works)
            print(f"step {number}: {told}", flush=True)
    return answers


def run_best(
    arguments: argparse.Namespace, work: Work, trials: Sequence[Trial], folder: Path
) -> tuple[figures.Answers, str]:
    """Run with the best of TRL's settings that survives; return which one that was."""
    wants_parts = (arguments.parts or arguments.method == "dpo") and work.shares_prefixes
    for trial in trials:
        if not trial.is_valid:
            continue
        ours = work_of(work, trial.variant)
        works = {"ours": ours, "trl": ours}
        if wants_parts:
            works["ours_unshared"] = replace(ours, shares_prefixes=False)
        try:
            return run(works, folder), trial.variant.name
        except SideEnded as ended:
            print(f"{ended}; the next best setting follows", flush=True)
    works = {"ours": work}
    if wants_parts:
        works["ours_unshared"] = replace(work, shares_prefixes=False)
    return run(works, folder), ""


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Try TRL's settings, run both sides, alternating, and return the figures."""
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    base = base_of(arguments, folder, dtype)
    wanted = Wanted(
        arguments.rows,
        arguments.method,
        arguments.limit,
        arguments.max_length,
        arguments.unshareable,
    )
    found = read_rows(wanted, Renderer.from_folder(base))
    work = Work(
        method=arguments.method,
        base=str(base),
        start=str(folder / "start"),
        batches=batches_of(arguments, found),
        threads=arguments.threads or torch.get_num_threads(),
        max_length=found.max_length,
        device=arguments.device,
        shares_prefixes=not arguments.no_sharing,
        compiles=arguments.compile,
        is_quantized=arguments.load_4bit,
    )
    weights = save_start(base, folder / "start", dtype)
    names = VARIANTS if arguments.variants == "all" else arguments.variants.split(",")
    fitting = [VARIANTS[n] for n in names if VARIANTS[n].fits(work.method, arguments.batch_size)]
    peak = figures.product_peak(work.threads, work.device)
    trials = try_all(work, fitting, folder) if arguments.against == "trl" else []
    answers, variant = run_best(arguments, work, trials, folder)
    peak = max(peak, figures.product_peak(work.threads, work.device))
    compared = figures.comparison(answers, arguments.batch_size)
    for peer in compared["peers"].values():
        peer["variant"] = variant
    return compared | {
        "mfu": figures.useful_share(answers["ours"], weights, peak),
        "product_peak_flops": peak,
        "trials": {"trl": [trial.as_json() for trial in trials]},
        "timed_steps": len(work.batches) - 1,
        "threads": work.threads,
        "device": device_name(work.device),
        "shape": arguments.shape,
        "is_quantized": work.is_quantized,
        "compiles": work.compiles,
        "largest_difference": work.largest_difference if not work.is_quantized else None,
        "max_length": found.max_length,
        "rows_cut": found.num_cut,
        "rows_left_out": found.num_left_out,
        "environment": {name: os.environ[name] for name in WAITING if name in os.environ},
    }


def device_name(device: str) -> str:
    """Return what the figures were measured on."""
    return device if device == "cpu" else torch.cuda.get_device_name()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="a file in OpenAI's shape")
    parser.add_argument("--limit", type=int, help="rows (default: nine batches)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--method", choices=["sft", "dpo"], default="sft")
    parser.add_argument("--against", choices=["trl", "none"], default="trl")
    parser.add_argument("--variants", default="all", help=f"of TRL: {', '.join(VARIANTS)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--max-length", type=int, help="(default: the longest row; dpo: 1024)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of so many, not --model's")
    parser.add_argument("--load-4bit", action="store_true", help="nf4 base weights on our side")
    parser.add_argument("--compile", action="store_true", help="torch.compile on our side")
    parser.add_argument("--unshareable", action="store_true", help="a random word before each row")
    parser.add_argument("--no-sharing", action="store_true", help="lay each row out whole")
    parser.add_argument("--parts", action="store_true", help="also without sharing (dpo: always)")
    arguments = parser.parse_args()
    if arguments.rows is None:
        arguments.rows = ROOT / "examples" / EXAMPLES[arguments.method]
    if arguments.limit is None:
        arguments.limit = (1 + TIMED_STEPS) * arguments.batch_size
    unknown = {*arguments.variants.split(",")} - {"all", *VARIANTS}
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    return arguments


def main() -> int:
    """Run, print; 1 when the losses differ or TRL has no setting that works."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments, Path(folder))
    print(f"useful arithmetic {found['mfu']:.2f} of the product peak")
    for name, peer in found["peers"].items():
        low, high = found["ratio_quartiles"][name]
        print(
            f"{found['ratios'][name]:.1f} x {name} ({peer['variant']}; quartiles {low:.1f} to "
            f"{high:.1f}), whose memory is {found['memory_ratios'][name]:.2f} of ours"
        )
    for part, ratio in found.get("parts", {}).items():
        print(f"of it {part}: {ratio:.1f} x")
    for name, difference in found["differences"].items():
        print(f"losses differ by at most {difference:.1e} from those of {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    tolerance = math.inf if found["is_quantized"] else found["largest_difference"]
    is_compared = bool(found["peers"]) or arguments.against == "none"
    worst = max(found["differences"].values(), default=0.0)
    return int(worst > tolerance or not is_compared)


if __name__ == "__main__":
    sys.exit(main())
