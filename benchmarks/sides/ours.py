"""Our side of the training benchmark: ``python benchmarks/sides/ours.py WORK.json``."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from work import BETA, MAX_NORM, RATE, Row, Work, requests, say, say_step

from sintonia.data.forest import EncodedSequence
from sintonia.models import adapters, decoder, products
from sintonia.models.compiled import compile_layers
from sintonia.models.flex import flex_on
from sintonia.models.load import Place, load_base
from sintonia.models.policy import Policy
from sintonia.objectives.base import Objective, sum_by_sequence
from sintonia.objectives.dpo import DirectPreference
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import MICRO_BATCH_TOKENS, linear_layers
from sintonia.runs.spec import DpoSettings, LoraSettings, OptimizerSettings
from sintonia.sealed import read_json
from sintonia.training.optimizer import build_optimizer, clip

OBJECTIVES = {"sft": Supervised(), "dpo": DirectPreference(DpoSettings(BETA))}


def load(work: Work) -> Policy:
    """Load the base with the adapter that both sides begin with."""
    dtype = torch.float32 if work.device == "cpu" else torch.bfloat16
    narrow = linear_layers(Path(work.base)) if work.is_quantized else ()
    model = load_base(Path(work.base), Place(dtype, work.device, narrow))
    config = read_json(Path(work.start) / adapters.CONFIG)
    lora = LoraSettings(config["r"], config["lora_alpha"], tuple(config["target_modules"]))
    adapters.attach(model, lora)
    adapters.load(model, Path(work.start))
    is_fused = False
    if work.compiles:
        compile_layers(model)
    elif work.device == "cpu":
        is_fused = decoder.fuse(model)
        products.quicken(model)
    say(fused=is_fused, flex_problem=flex_on(work.device).problem)
    return Policy(model)


def encode(batch: list[Row], work: Work) -> list[EncodedSequence]:
    """Return the sequences of a batch."""
    return [
        EncodedSequence(
            np.array([*row.prompt, *answer], np.int32),
            len(row.prompt),
            1.0,
            number,
            place,
            is_apart=not work.shares_prefixes,
        )
        for number, row in enumerate(batch)
        for place, answer in enumerate(row.answers)
    ]


@torch.no_grad()
def refer(
    policy: Policy, objective: Objective, batch: list[EncodedSequence]
) -> list[EncodedSequence]:
    """Return the batch with what the policy thinks of it before the first step."""
    found = {}
    for forest in objective.batches(batch, MICRO_BATCH_TOKENS):
        sums_S = sum_by_sequence(policy.score(forest).log_probabilities_N, forest).tolist()
        places = zip(forest.rows_S.tolist(), forest.places_S.tolist(), strict=True)
        found |= dict(zip(places, sums_S, strict=True))
    return [replace(one, reference=found[one.row, one.place]) for one in batch]


def main() -> None:
    """Make the steps that the parent asks for."""
    work = Work.read(sys.argv[1])
    torch.set_num_threads(work.threads)
    policy, objective = load(work), OBJECTIVES[work.method]
    named = [(name, p) for name, p in policy.model.named_parameters() if p.requires_grad]
    optimizer = build_optimizer(named, OptimizerSettings.usual(RATE))
    batches = [encode(batch, work) for batch in work.batches]
    reference_seconds = []
    for number, batch in enumerate(batches):
        began = time.perf_counter()
        if objective.needs_reference:
            batches[number] = refer(policy, objective, batch)
        reference_seconds.append(time.perf_counter() - began)
    for number in requests(batches):
        forests = list(objective.batches(batches[number], MICRO_BATCH_TOKENS))
        count, total = sum(objective.count(forest) for forest in forests), 0.0
        for forest in forests:
            output = objective.loss(policy, forest)
            (output.total / count).backward()
            total += float(output.total.detach())
        clip((p for _, p in named), MAX_NORM)
        optimizer.step(RATE)
        tokens = sum(forest.num_tokens for forest in forests)
        say_step(total / count, tokens, reference_seconds[number], work.device)


if __name__ == "__main__":
    main()
