"""Continuous batching: which requests run, and what each step computes.

Invariant: requests start in the order they came; every running sequence that has its prompt
behind it moves by one token in each step of its base, and prompts take turns by chunks. All but
``submit`` and ``counts`` is called by the engine's thread alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sintonia.errors import ServerError, SintoniaError, TooManyRequests
from sintonia.generation.base import GenerationRequest, TokenChunk
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


class Scheduler:
    """The requests of one engine."""

    def __init__(self, residency: Residency, *, slots: int, queue: int) -> None:
        self._residency = residency
        self._slots = slots
        self._queue = queue
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._running: list[_Running] = []

    def submit(self, ticket: Ticket) -> None:
        """Let ``ticket`` wait for a slot. Raises ``TooManyRequests`` when the queue is full."""
        with self._lock:
            if len(self._waiting) + len(self._running) >= self._slots + self._queue:
                raise TooManyRequests(
                    f"The engine's queue is full ({self._queue} requests wait). "
                    "Try again in a moment."
                )
            self._waiting.append(ticket)

    def counts(self) -> tuple[int, int]:
        """Return how many requests run and how many wait."""
        return len(self._running), len(self._waiting)

    def step(self) -> bool:
        """Compute the next tokens; return whether there was anything to compute."""
        self._forget_cancelled()
        self._admit()
        chosen = self._choose()
        if not chosen:
            return False
        self._take_turns(chosen)
        works = [running.sequence.work() for running in chosen]
        try:
            logits_NV = chosen[0].sequence.lease.runner.forward(works)
        except (RuntimeError, MemoryError) as problem:
            _log.exception("a step failed")
            for running in chosen:
                self._end(running, _step_error(problem))
            return True
        for running, logits_V in zip(chosen, logits_NV, strict=True):
            self._advance(running, logits_V)
        return True

    def fail_all(self, error: Callable[[], SintoniaError]) -> None:
        """End every request with a fresh ``error``."""
        for running in list(self._running):
            self._end(running, error())
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for ticket in waiting:
            ticket.deliver(error())

    def _forget_cancelled(self) -> None:
        for running in [r for r in self._running if r.ticket.cancelled]:
            self._end(running, None)
        with self._lock:
            self._waiting = deque(t for t in self._waiting if not t.cancelled)

    def _admit(self) -> None:
        """Give free slots to those who wait longest.

        Whose weights are not there yet waits on, and so do those behind, or a model that is
        rarely asked for would never find room.
        """
        while self._waiting and len(self._running) < self._slots:
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
                self._running.append(_Running(ticket, sequence))

    def _open(self, request: GenerationRequest) -> Sequence | None:
        lease = self._residency.lease(request.model)
        if lease is None:
            return None
        try:
            return Sequence(request, lease)
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
            tokens = running.sequence.num_pending
            if tokens > 1 and tokens > room:
                continue
            room -= tokens if tokens > 1 else 0
            chosen.append(running)
        return chosen

    def _take_turns(self, chosen: list[_Running]) -> None:
        """Put those who were served behind those who were not."""
        served = set(map(id, chosen))
        self._running = [r for r in self._running if id(r) not in served] + chosen

    def _advance(self, running: _Running, logits_V: Tensor) -> None:
        try:
            chunk = running.sequence.advance(logits_V)
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
            self._running.remove(running)
        if error is not None:
            running.ticket.deliver(error)


def _step_error(problem: Exception) -> ServerError:
    return ServerError(
        f"The model could not compute the next token ({type(problem).__name__}). "
        "Try again; the engine's log says more."
    )
