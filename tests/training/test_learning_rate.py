from __future__ import annotations

import dataclasses

import pytest
import torch

from sintonia import plugins
from sintonia.domain.choices import ScheduleName
from sintonia.domain.methods import Method
from sintonia.domain.models import BaseRef
from sintonia.runs.plan import BaseNumbers, PlanRequest, plan
from sintonia.runs.spec import DataRef, OptimizerSettings, ScheduleSettings
from sintonia.training import schedules
from sintonia.training.learning_rate import learning_rate_at

STEPS, WARMUP, PEAK = 20, 4, 0.5
BASE = BaseNumbers(BaseRef("tiny", "/base", "b" * 64), 1e-3, 512, "t" * 64, ("q_proj",))
SPEC = dataclasses.replace(
    plan(
        PlanRequest("run", Method(), base=BASE, training=DataRef("t.jsonl", "d" * 64, 80), seed=0)
    ),
    optimizer=OptimizerSettings.usual(PEAK),
    total_steps=STEPS,
)


def rates(name: str, **settings) -> list[float]:
    schedule = ScheduleSettings(**{"warmup_steps": WARMUP, **settings}, name=ScheduleName(name))
    spec = dataclasses.replace(SPEC, schedule=schedule)
    return [learning_rate_at(step, spec) for step in range(1, STEPS + 1)]


def torchs(build, steps: int) -> list[float]:
    """The rates of torch's scheduler, from the first step after the peak."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = build(optimizer)
    found = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0])
    return found


def test_the_folder_holds_every_schedule_that_can_be_chosen():
    assert plugins.names(schedules) == tuple(sorted(ScheduleName))


@pytest.mark.parametrize("name", list(ScheduleName))
def test_every_schedule_warms_up_and_no_step_is_wasted(name):
    found = rates(name)
    assert found[:4] == [PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK]
    assert found[4:] == sorted(found[4:], reverse=True)
    assert found[-1] > 0


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_linear_is_torchs(floor):
    left = STEPS - WARMUP
    expected = torchs(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, floor, total_iters=left + 1), left
    )
    assert rates("linear", floor=floor)[WARMUP:] == pytest.approx(expected)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_is_torchs(floor):
    left = STEPS - WARMUP
    expected = torchs(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(
            o, T_max=left + 1, eta_min=floor * PEAK
        ),
        left,
    )
    assert rates("cosine", floor=floor)[WARMUP:] == pytest.approx(expected)


def test_constant_stays_at_the_peak():
    assert rates("constant")[WARMUP:] == [PEAK] * (STEPS - WARMUP)


def test_wsd_stays_at_the_peak_and_then_falls_in_a_line():
    found = rates("wsd", decay_steps=5, floor=0.2)
    assert found[WARMUP:15] == [PEAK] * 11
    way = [(6 - n) / 6 for n in range(1, 6)]
    assert found[15:] == pytest.approx([PEAK * (0.2 + 0.8 * part) for part in way])


def test_a_run_without_warm_up_begins_at_most_at_its_peak():
    assert rates("linear", warmup_steps=0)[0] == pytest.approx(PEAK * 20 / 21)
    assert rates("constant", warmup_steps=0)[0] == PEAK


def test_a_run_may_be_nothing_but_warm_up():
    assert rates("cosine", warmup_steps=STEPS)[-1] == PEAK
