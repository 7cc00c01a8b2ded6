from __future__ import annotations

import pytest
import torch

from sintonia.runs.spec import OptimizerSettings
from sintonia.training.optimizer import (
    build_optimizer,
    learning_rate_at,
    load_state_tensors,
    state_tensors,
)
from sintonia.training.schedule import Schedule, validation_rows


def test_each_row_is_learned_once_in_each_epoch_in_a_fresh_order():
    schedule = Schedule(num_rows=23, batch_size=4, seed=5)
    assert schedule.steps_an_epoch == 6
    epochs = [[r for s in range(e * 6 + 1, e * 6 + 7) for r in schedule.rows_of(s)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]
    assert [schedule.ends_epoch(step) for step in (5, 6, 7, 12)] == [False, True, False, True]
    assert [schedule.epoch_of(step) for step in (1, 6, 7, 12, 13)] == [1, 1, 2, 2, 3]


def test_rows_of_a_step_need_no_history():
    assert Schedule(23, 4, 5).rows_of(17) == Schedule(23, 4, 5).rows_of(17)
    assert Schedule(23, 4, 6).rows_of(17) != Schedule(23, 4, 5).rows_of(17)


def test_validation_rows_do_not_repeat_within_a_step():
    rows = validation_rows(3, num_rows=10, batch_size=8, seed=1)
    assert len(set(rows)) == 8
    assert validation_rows(3, num_rows=4, batch_size=8, seed=1) != []


def test_the_rate_warms_up_then_falls_and_no_step_is_wasted():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate_at(step, 20, settings) for step in range(1, 21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[4] < 1.0
    assert rates[-1] == pytest.approx(1 / 17)


def test_an_optimizer_goes_on_from_its_saved_state_to_the_bit():
    def parameter():
        return torch.nn.Parameter(torch.linspace(-1, 1, 8))

    def step(optimizer, weights, seed):
        weights.grad = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    settings = OptimizerSettings(learning_rate=0.1, warmup_steps=1, weight_decay=0.01)
    straight = parameter()
    optimizer = build_optimizer([straight], settings)
    for seed in range(6):
        step(optimizer, straight, seed)
        if seed == 2:
            saved, weights = state_tensors(optimizer), straight.detach().clone()
            saved = {name: tensor.clone() for name, tensor in saved.items()}
    resumed = torch.nn.Parameter(weights)
    optimizer = build_optimizer([resumed], settings)
    load_state_tensors(optimizer, saved)
    for seed in range(3, 6):
        step(optimizer, resumed, seed)
    assert torch.equal(resumed, straight)
