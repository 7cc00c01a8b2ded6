"""Two processes say to each other what a trainer does; run with their rank in the environment."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from sintonia.errors import TrainerFailed
from sintonia.training import distributed
from sintonia.training.distributed import OtherFailed, World, joined


def words(world: World) -> None:
    assert world.gather([world.rank, 0.1]) == [[0, 0.1], [1, 0.1]]
    long = ["x" * 5000] * (1 + world.rank)
    assert world.gather(long) == [["x" * 5000], ["x" * 5000] * 2], "longer than one exchange"
    assert world.from_first(lambda: world.rank + 7) == 7
    assert world.any_of(world.rank == 1, False) == (True, False)
    assert world.sum(0.25 + world.rank) == 1.5


def turns(world: World) -> None:
    def work() -> float:
        time.sleep(0.0 if world.rank else 0.5)
        return time.time()

    begin, end = world.gather(world.after_first("work", work))
    assert begin <= end, "the first was done when the other began"


def gradients(world: World) -> None:
    distributed.BUCKET_NUMBERS = 5  # several buckets
    both, one, none, wide = parameters = [nn.Parameter(torch.ones(n)) for n in (3, 2, 4, 7)]
    both.grad = torch.full((3,), 1.0 + world.rank)
    wide.grad = torch.arange(7.0)
    if world.is_first:
        one.grad = torch.tensor([1.0, -1.0])
    world.sum_gradients(parameters)
    assert both.grad.tolist() == [3.0] * 3
    assert one.grad is not None
    assert one.grad.tolist() == [1.0, -1.0]
    assert none.grad is None, "an optimizer leaves it alone"
    assert wide.grad.tolist() == [0, 2, 4, 6, 8, 10, 12]


def weights(world: World) -> None:
    weight = nn.Parameter(torch.ones(3))
    world.require_same_weights(1, [weight])
    with torch.no_grad():
        weight[1] += 1e-7 * world.rank
    with pytest.raises(TrainerFailed, match="Process 1 of 2 has other weights at step 2"):
        world.require_same_weights(2, [weight])


def failure(world: World) -> None:
    """One fails; the other, which waits for it, learns why at once."""
    if world.is_first:
        with pytest.raises(OtherFailed, match="no room"):
            world.gather("still here")
        world.leave()
    else:
        world.leave({"message": "no room"})


if __name__ == "__main__":
    with joined() as the_world:
        for check in (words, turns, gradients, weights, failure):
            check(the_world)
