"""Continuous batching: which requests run, and what each step computes.

Invariants: requests start in the order they came; every running sequence that has its prompt
behind it moves by one token in each step of its base, and prompts take turns by chunks. Keys and
values never take more than ``cache_bytes``: when those of all who run would, the one that came
last gives its own back and goes on later, which costs time and changes no token but by the last
bits of a float; so the one that came first always moves. All but
``submit`` and ``counts`` is called by the engine's thread alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from sintonia.errors import ServerError, SintoniaError, TooManyRequests
from sintonia.generation.base import GenerationRequest, TokenChunk
from sintonia.generation.engines.native.prefixes import Prefixes
from sintonia.generation.engines.native.residency import Residency
from sintonia.generation.engines.native.sequence import CHUNK_TOKENS, Sequence

PROMPT_TOKENS_PER_STEP = CHUNK_TOKENS
"""How many tokens of prompts a step takes on, so that those who wait for one are not held up."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """A request in the engine: the only object that caller and engine thread both touch."""

    request: GenerationRequest
    deliver: Callable[[TokenChunk | SintoniaError], None]
    cancelled: bool = False
    """Set by the caller; the slot is free at the next step."""


@dataclass(eq=False)
class _Running:
    ticket: Ticket
    sequence: Sequence
    number: int
    """In the order in which they came."""


class Scheduler:
    """The requests of one engine."""

    def __init__(self, residency: Residency, *, slots: int, queue: int, cache_bytes: int) -> None:
        self._residency = residency
        self._slots = slots
        self._queue = queue
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._running: list[_Running] = []
        self._paused: deque[_Running] = deque()
        """Begun, and waiting for room; they come before those who have not begun."""
        self._cache_bytes = cache_bytes
        self._prefixes = Prefixes()
        self._numbers = count()

    def submit(self, ticket: Ticket) -> None:
        """Let ``ticket`` wait for a slot. Raises ``TooManyRequests`` when the queue is full."""
        with self._lock:
            num_held = len(self._waiting) + len(self._running) + len(self._paused)
            if num_held >= self._slots + self._queue:
                raise TooManyRequests(
                    f"The engine's queue is full ({self._queue} requests wait). "
                    "Try again in a moment."
                )
            self._waiting.append(ticket)

    def counts(self) -> tuple[int, int]:
        """Return how many requests run and how many wait."""
        return len(self._running), len(self._waiting) + len(self._paused)

    def step(self) -> bool:
        """Compute the next tokens; return whether there was anything to compute."""
        self._forget_cancelled()
        self._admit()
        chosen = self._make_room(self._choose())
        if not chosen:
            return False
        self._prefixes.shrink_to(self._cache_bytes - self._bytes_after(chosen))
        self._take_turns(chosen)
        works = [running.sequence.work() for running in chosen]
        try:
            logits_NV = chosen[0].sequence.lease.runner.forward(works)
        except (RuntimeError, MemoryError) as problem:
            _log.exception("a step failed")
            for running in chosen:
                self._end(running, _step_error(problem))
            return True
        parts = logits_NV.split([work.num_logits for work in works])
        for running, own_NV in zip(chosen, parts, strict=True):
            self._advance(running, own_NV)
        self._prefixes.shrink_to(self._cache_bytes - self._bytes_after([]))
        return True

    def forget(self, sha256: str) -> None:
        """Let go of what a base or an adapter has computed of prompts."""
        self._prefixes.forget(sha256)

    def fail_all(self, error: Callable[[], SintoniaError]) -> None:
        """End every request with a fresh ``error``."""
        for running in [*self._running, *self._paused]:
            self._end(running, error())
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for ticket in waiting:
            ticket.deliver(error())

    def _forget_cancelled(self) -> None:
        for running in [r for r in (*self._running, *self._paused) if r.ticket.cancelled]:
            self._end(running, None)
        with self._lock:
            self._waiting = deque(t for t in self._waiting if not t.cancelled)

    def _admit(self) -> None:
        """Give free slots to those who wait longest.

        Whose weights are not there yet waits on, and so do those behind, or a model that is
        rarely asked for would never find room.
        """
        while (self._waiting or self._paused) and len(self._running) < self._slots:
            if self._paused:
                if not self._has_room_for(self._paused[0].sequence):
                    return
                with self._lock:
                    self._running.append(self._paused.popleft())
                continue
            ticket = self._waiting[0]
            try:
                sequence = self._open(ticket.request)
            except SintoniaError as error:
                with self._lock:
                    self._waiting.popleft()
                ticket.deliver(error)
                continue
            if sequence is None:
                return
            with self._lock:
                self._waiting.popleft()
                self._paused.append(_Running(ticket, sequence, next(self._numbers)))

    def _open(self, request: GenerationRequest) -> Sequence | None:
        lease = self._residency.lease(request.model)
        if lease is None:
            return None
        try:
            return Sequence(request, lease, self._prefixes, self._cache_bytes)
        except SintoniaError:
            lease.release()
            raise

    def _choose(self) -> list[_Running]:
        """Return who computes in this step.

        Of the base whose turn it is all that have one token to compute, and prompts as far as
        there is room.
        """
        if not self._running:
            return []
        runner = self._running[0].sequence.lease.runner
        room = PROMPT_TOKENS_PER_STEP
        chosen = []
        for running in self._running:
            if running.sequence.lease.runner is not runner:
                continue
            running.sequence.recall()
            tokens = running.sequence.num_pending
            if tokens > 1 and tokens > room:
                continue
            room -= tokens if tokens > 1 else 0
            chosen.append(running)
        return chosen

    def _has_room_for(self, sequence: Sequence) -> bool:
        held_bytes = sum(running.sequence.held_bytes for running in self._running)
        wanted_bytes = sequence.bytes_when_caught_up
        return not self._running or held_bytes + wanted_bytes <= self._cache_bytes

    def _make_room(self, chosen: list[_Running]) -> list[_Running]:
        """Return who computes in this step, once those who came last have made room for them."""
        while len(self._running) > 1 and self._bytes_after(chosen) > self._cache_bytes:
            last = max(self._running, key=lambda running: running.number)
            last.sequence.forget()
            with self._lock:
                self._running.remove(last)
                self._paused.appendleft(last)
            chosen = self._choose()
        return chosen

    def _bytes_after(self, chosen: list[_Running]) -> int:
        """Return what all that run hold once ``chosen`` have computed."""
        moving = set(map(id, chosen))
        return sum(
            r.sequence.bytes_after_step if id(r) in moving else r.sequence.held_bytes
            for r in self._running
        )

    def _take_turns(self, chosen: list[_Running]) -> None:
        """Put those who were served behind those who were not."""
        served = set(map(id, chosen))
        self._running = [r for r in self._running if id(r) not in served] + chosen

    def _advance(self, running: _Running, logits_NV: Tensor) -> None:
        try:
            chunk = running.sequence.advance(logits_NV)
        except SintoniaError as error:
            self._end(running, error)
            return
        if chunk is None:
            return
        running.ticket.deliver(chunk)
        if chunk.finish_reason is not None:
            self._end(running, None)

    def _end(self, running: _Running, error: SintoniaError | None) -> None:
        running.sequence.lease.release()
        with self._lock:
            (self._running if running in self._running else self._paused).remove(running)
        if error is not None:
            running.ticket.deliver(error)


def _step_error(problem: Exception) -> ServerError:
    return ServerError(
        f"The model could not compute the next token ({type(problem).__name__}). "
        "Try again; the engine's log says more."
    )
