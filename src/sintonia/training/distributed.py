"""Several processes that train one run together: who they are, and all that they say to each other.

They are launched as torchrun does it, each with its rank in the environment. Every process has
the whole model and computes its shard of each batch; gradients and measurements are added up, and
each takes the same step. The first process alone writes.

Invariant: all processes ask the same in the same order and get the same answers, so that they do
the same. What crosses is numbers and JSON, never anything that could run. A process that is alone
joins nothing and pays nothing: each answer is what it gave.

This is the seam for sharded weights: where gradients are added up, what is a whole tensor, and
that the others meet the first one before it saves, is decided here and in ``loop._save``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from sintonia.data.forest import EncodedSequence
from sintonia.errors import SintoniaError, TrainerFailed
from sintonia.training.shards import shards

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""So long one process waits for another that lives; one that died is noticed at once."""
BUCKET_NUMBERS = 16 * 2**20
"""Gradients are added up in flat pieces of about this size."""
_SHORT_BYTES = 1024
_POLL_SECONDS = 0.1
_PROBLEM, _ENDED = "problem", "ended"


class ProcessLost(Exception):
    """Another process of the attempt ended without a word, or does not answer."""


class OtherFailed(Exception):
    """Another process of the attempt failed and said why."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(told.get("message"))
        self.told = told


@dataclass(frozen=True)
class World:
    """The processes of an attempt, as one of them sees them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """How many of them share this machine."""
    store: dist.Store | None = None  # type: ignore[name-defined]
    """Where words are left for a process that listens to nothing else."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def own(self, sequences: Sequence[EncodedSequence]) -> Sequence[EncodedSequence]:
        """Return this process's shard of a batch; it may be empty."""
        return sequences if self.is_alone else shards(sequences, self.size)[self.rank]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank; JSON can hold them."""
        if self.is_alone:
            return [value]
        content = json.dumps(value).encode()
        with self._listening():
            found = _all_gather(content, self.size)
        return [json.loads(told) for told in found]

    def from_first(self, work: Callable[[], T]) -> T:
        """Let the first process do ``work`` and return, on all, what it found."""
        if self.is_alone:
            return work()
        return self.gather(work() if self.is_first else None)[0]  # type: ignore[return-value]

    def after_first(self, name: str, work: Callable[[], T]) -> T:
        """Do ``work`` on the first process and, when it is done there, on the others.

        However long that takes; ``name`` is used once.
        """
        if self.store is None:
            return work()
        if self.is_first:
            done = work()
            self.store.set(name, "done")
            return done
        with self._listening():
            while not self.store.check([name]):
                self._raise_what_was_told()
                time.sleep(_POLL_SECONDS)
        return work()

    def sum(self, value: float) -> float:
        """Return the sum over all processes."""
        return value if self.is_alone else sum(self.gather(value))

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether some process has it set."""
        return tuple(any(flag) for flag in zip(*self.gather(flags), strict=True))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make each gradient the sum over all processes.

        A parameter that met nothing here may have met something elsewhere; one that met nothing
        anywhere keeps no gradient, so that optimizers leave it alone.
        """
        if self.is_alone:
            return
        has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        self._all_reduce(has_gradient)
        gradients = []
        for parameter, number in zip(parameters, has_gradient.tolist(), strict=True):
            if number and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self._all_reduce(flat)
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def require_same_weights(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Raise ``TrainerFailed`` unless all processes stand at ``step`` with equal weights."""
        if self.is_alone:
            return
        first, *others = self.gather([step, _digest(parameters)])
        for rank, told in enumerate(others, start=1):
            if told != first:
                raise TrainerFailed(
                    f"Process {rank} of {self.size} has other weights at step {told[0]} than "
                    f"process 0 at step {first[0]}; what was saved before is good. Start the next "
                    "attempt, on machines of one kind or in one process."
                )

    def leave(self, problem: Mapping[str, Any] | None = None) -> None:
        """Part from the others; whoever waits for this process learns ``problem`` at once.

        One that failed waits until the first has written it down: launchers end all processes
        when one ends badly. Who has left may leave again.
        """
        if self.store is None or not dist.is_initialized():
            return
        with contextlib.suppress(RuntimeError):  # the store's own process may be gone
            if problem is not None:
                self.store.compare_set(_PROBLEM, "", json.dumps(problem))
            if self.is_first:
                self.store.set(_ENDED, "yes")
            dist.destroy_process_group()
            if problem is not None:
                self.store.wait([_ENDED], TIMEOUT)

    def _all_reduce(self, tensor: Tensor) -> None:
        with self._listening():
            dist.all_reduce(tensor)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Turn a broken connection into what the other side said, if it said anything."""
        try:
            yield
        except RuntimeError as problem:
            self._raise_what_was_told()
            raise ProcessLost(
                f"Another of the {self.size} processes of this attempt ended without a word, or "
                f"did not answer within {TIMEOUT.seconds // 60} minutes. "
                "The next attempt goes on from the newest checkpoint."
            ) from problem

    def _raise_what_was_told(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store's own process may be gone
            if self.store is not None and self.store.check([_PROBLEM]):
                raise OtherFailed(json.loads(self.store.get(_PROBLEM)))


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """Meet the other processes that the environment tells of, as torchrun sets it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    # A launcher that starts all again may keep its store, with what was said before.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"sintonia-{start}", store)  # type: ignore[attr-defined]
    # Words and measurements are on the processor wherever the model is.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    world = World(
        rank=rank,
        size=size,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", size)),
        store=store,
    )
    try:
        yield world
    except SintoniaError as problem:
        world.leave({"message": problem.message})
        raise
    finally:
        world.leave()


def _all_gather(content: bytes, size: int) -> list[bytes]:
    """Return what each process gave. Short words take one exchange."""
    head = len(content).to_bytes(8, "big") + content[:_SHORT_BYTES]
    heads = _all_gather_padded(head, 8 + _SHORT_BYTES, size)
    lengths = [int.from_bytes(told[:8], "big") for told in heads]
    rests = [b""] * size
    if max(lengths) > _SHORT_BYTES:
        rests = _all_gather_padded(content[_SHORT_BYTES:], max(lengths) - _SHORT_BYTES, size)
    parts = zip(heads, rests, lengths, strict=True)
    return [(told[8:] + rest)[:length] for told, rest, length in parts]


def _all_gather_padded(content: bytes, width: int, size: int) -> list[bytes]:
    padded = np.frombuffer(content.ljust(width, b"\0"), np.uint8).copy()
    found = [torch.empty(width, dtype=torch.uint8) for _ in range(size)]
    dist.all_gather(found, torch.from_numpy(padded))
    return [told.numpy().tobytes() for told in found]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors, those of one kind of number together up to about a bucket's size."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in (tensor for tensor in tensors if tensor.dtype == dtype):
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET_NUMBERS:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


def _digest(parameters: Sequence[nn.Parameter]) -> str:
    """Return a hash over every bit of the parameters, in their order."""
    found = hashlib.blake2b()
    for parameter in parameters:
        found.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
